"""Draw training patients with the augmentation of a recipe: one picture, augmentation.png.

Research use only, not a medical device.

    python scripts/show_augmentation.py --data acdc_wds --config configs/training/MRI/stage2/mri_segmenter.yaml \\
        --output_dir augmentation

The picture shows the middle slice of each patient at ED and ES, with contours of the labels, as stored and as in the
first epochs of training. Below, it shows the phases of the cycle as stored and in the first epoch.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from data.loading.augment import AugmentConfig
from data.loading.dataset import CineDataset
from modeling.config import ModelConfig
from scripts.recipe import RunConfig
from utils.clinical import KEY_FRAMES, volume_ml
from utils.config.ranges import Pixels, Positive, check_options
from utils.config.recipe import parse
from utils.errors import user_errors
from utils.files import user_path
from utils.labels import STRUCTURES
from utils.report.drawing.figures import GREY, INK, save
from utils.report.drawing.overlays import CONTOURS, outline

DRAWS = 4
STRIP = 10  # phases shown of a cycle, at most
CELL = 2.6  # inches

Arrays = dict[str, np.ndarray]


def sample_draws(config: RunConfig, image_size: int, shards: str, samples: int) -> dict[str, list[Arrays]]:
    """Middle slices as stored and in DRAWS epochs, with all their phases: key -> [stored, draw, draw, ...].

    Args:
        config: the recipe; its seed, geometry and `dataset.augment` are used.
        image_size: S.
        shards: folder of the shards.
        samples: number of patients, evenly spaced over the train split; all if it has fewer.
    Raises:
        ValueError: if the recipe does not augment, or the train split is empty.
    """
    if not config.dataset.augment.enabled:
        raise ValueError("the recipe has dataset.augment.enabled=false, so there is nothing to draw; set it to true")
    stored, drawn = (
        CineDataset(
            shards, "train", "slice", image_size, config.model.geometry, seed=config.experiment.seed,
            key_frames=True, augment=augment,
        )
        for augment in (None, config.dataset.augment)
    )  # fmt: skip
    stacks = list(stored.reader.patients().values())
    if not stacks:
        raise ValueError(f"{shards}: the train split is empty; convert more patients, or change the fractions")
    samples = min(samples, len(stacks))
    chosen = [stacks[(2 * i + 1) * len(stacks) // (2 * samples)] for i in range(samples)]
    shown = {}
    for index in (stack[len(stack) // 2] for stack in chosen):
        sample = stored[0, index]
        shown[sample.key] = [sample.arrays, *(drawn[epoch, index].arrays for epoch in range(DRAWS))]
    return shown


def draw_sheet(path: Path, samples: dict[str, list[Arrays]], caption: str) -> None:
    """Save the contact sheet.

    Args:
        path: a .png file.
        samples: result of `sample_draws`.
        caption: recipe, data and options of the augmentation.
    """
    strip = CELL * (1 + DRAWS) / STRIP + 0.35
    height = 2 * CELL + 0.6 + 2 * strip
    figure = Figure(figsize=(CELL * (1 + DRAWS) + 0.3, height * len(samples) + 0.6), layout="constrained")
    parts = figure.subfigures(len(samples), 1, squeeze=False)[:, 0]
    for part, (key, versions) in zip(parts, samples.items(), strict=True):
        _draw_sample(part, key, versions, heights=[CELL + 0.3, CELL + 0.3, strip, strip])
    lines = [Line2D([], [], color=color, label=name) for name, color in CONTOURS.items()]
    figure.legend(handles=lines, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.suptitle(caption, fontsize=9, color=INK)
    save(figure, path)


def _draw_sample(part: SubFigure, key: str, versions: list[Arrays], heights: list[float]) -> None:
    """ED and ES of all versions, a row each, then the cycle as stored and in the first draw."""
    grid = part.add_gridspec(4, len(versions), height_ratios=heights)
    for column, arrays in enumerate(versions):
        title = key if column == 0 else f"draw {column}"
        for row, (name, place) in enumerate(zip(KEY_FRAMES, arrays["key_frames"].tolist(), strict=True)):
            ax = part.add_subplot(grid[row, column])
            labels = arrays["mask"][0, place]
            _show(ax, arrays["image"][0, place, 0], arrays["spacing_mm"])
            outline(ax, labels)
            volume = volume_ml(labels, STRUCTURES["LV"], arrays["spacing_mm"].tolist())
            ax.set_title(f"{title}\nphase {place + 1}, LV {volume:.1f} mL", fontsize=8, color=INK)
            if column == 0:
                ax.set_ylabel(name, fontsize=8, color=INK)
    for row, (arrays, name) in enumerate(zip(versions[:2], ("stored", "draw 1"), strict=True), start=2):
        ax = part.add_subplot(grid[row, :])
        phases = arrays["image"].shape[1]
        chosen = sorted({phases * i // STRIP for i in range(STRIP)})
        frames = arrays["image"][0, chosen, 0]  # (T, S, S)
        _show(ax, np.concatenate(frames, axis=1), arrays["spacing_mm"])
        ax.set_title(f"{name}, phases {', '.join(str(t + 1) for t in chosen)} of {phases}", fontsize=8, color=INK)


def _show(ax: Axes, image: np.ndarray, spacing_mm: np.ndarray) -> None:
    ax.imshow(image, aspect=float(spacing_mm[0] / spacing_mm[1]), **GREY)
    ax.set_xticks([])
    ax.set_yticks([])


def describe(augment: AugmentConfig) -> str:
    """The augmentation options of the recipe, as keys and values."""
    values = {name: value for name, value in vars(augment).items() if name != "enabled" and value}
    return ", ".join(f"{name} {str(value).lower()}" for name, value in values.items()) or "nothing is changed"


def own_image_size(model: ModelConfig, recipe: str) -> int:
    """The side of the grid, if it is defined by the recipe alone."""
    if model.decoder != "none" and model.tokenizer.init != "random":
        raise ValueError(f"{recipe}: the side of its grid depends on pretrained weights; give --image_size")
    return model.image_size


@user_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of shards")
    parser.add_argument("--config", required=True, help="recipe with the dataset.augment to draw")
    parser.add_argument("--output_dir", required=True, type=user_path, help="folder for augmentation.png")
    parser.add_argument("--image_size", type=int, help="side of the grid; needed if it depends on pretrained weights")
    parser.add_argument("--samples", type=int, default=3, help="number of patients (default 3)")
    args = parser.parse_args()
    check_options(args, {"image_size": Pixels, "samples": Positive})
    # A recipe may leave its output folder to the command line.
    config = parse(RunConfig, [f"config={args.config}", f"experiment.output_dir={args.output_dir}"])
    size = args.image_size or own_image_size(config.model, args.config)
    samples = sample_draws(config, size, args.data, args.samples)
    path = args.output_dir / "augmentation.png"
    source = f"{Path(args.config).name} on {Path(args.data).name}, {config.model.geometry} of {size} pixels"
    draw_sheet(path, samples, f"{source}: {describe(config.dataset.augment)}")
    print(f"{', '.join(samples)}, each with {DRAWS} random draws: {path}")


if __name__ == "__main__":
    main()
