"""Train a recipe with all its losses, and again without each of them, and compare the results in one table.

Research use only, not a medical device.

    python scripts/ablate.py config=configs/demo/stage2.yaml dataset.shards=demo_output/phantom_wds \\
        experiment.init_weight=demo_output/stage1/checkpoint_last.pth experiment.output_dir=ablation

Each training is called an arm. All arms have the seed, steps, data and initial weights of the recipe. `--terms` selects
the losses to switch off. If the command is interrupted, the same command continues it. OUTPUT_DIR then holds one output
folder for each arm (`full`, `without_TERM`), the evaluation of all arms in `report/`, and the table as ablation.json,
ablation.csv and ablation.png.
"""

from __future__ import annotations

import argparse
import csv
import io
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml
from matplotlib.figure import Figure

from data.shards.manifest import SPLITS
from scripts.recipe import RunConfig
from utils.config.recipe import parse, to_plain
from utils.errors import user_errors
from utils.files import read_json, write_json, write_text
from utils.report.drawing.figures import COLORS, INK, save
from utils.report.tables import MARK

SCRIPTS = Path(__file__).resolve().parent
FULL = "full"
FIGURES = {  # key of summary.json: heading in the table, decimals
    "psnr": ("PSNR (dB)", 2),
    "psnr_heart": ("heart PSNR (dB)", 2),
    "ssim": ("SSIM", 4),
    "dice_mean": ("Dice", 3),
    "lv_ef_error": ("LV EF error (%)", 1),
    "flicker": ("flicker", 4),
}

HEART = ("dice_mean", "lv_ef_error")  # measured by a segmenter
TAUGHT = f"{MARK} measured by a segmenter that taught the arm, which favours it; give an independent one: --segmenter"

Arms = dict[str, dict[str, Any]]


def arms_of(recipe: dict[str, Any], terms: list[str] | None) -> Arms:
    """The recipes to train, by name of the arm.

    Args:
        recipe: as plain values.
        terms: losses to switch off, one in each arm; all losses of the recipe when None.
    Raises:
        ValueError: for a loss that the recipe does not have, or a recipe with a single loss.
    """
    losses = recipe["losses"]
    terms = list(losses) if terms is None else terms
    if unknown := sorted(set(terms) - set(losses)):
        raise ValueError(f"--terms: {', '.join(unknown)} is not among the recipe's losses: {', '.join(losses)}")
    if len(losses) < 2:
        raise ValueError(f"the recipe has one loss or none ({', '.join(losses) or 'none'}), expected two or more")
    kept = {term: {name: options for name, options in losses.items() if name != term} for term in terms}
    return {f"without_{term}": {**recipe, "losses": rest} for term, rest in kept.items()} | {FULL: recipe}


def run(command: list[str], what: str) -> None:
    """Run a command and show its output.

    Raises:
        ValueError: when it fails.
    """
    if code := subprocess.run(command, check=False).returncode:
        raise ValueError(f"{what} ended with exit status {code}, see above; repeat the command to continue")


def train(arms: Arms, output_dir: Path, launch: list[str]) -> None:
    """Train each arm into its folder; a finished arm is skipped."""
    for number, (name, recipe) in enumerate(arms.items(), start=1):
        print(f"== arm {number} of {len(arms)}: {name}", flush=True)
        path = output_dir / "recipes" / f"{name}.yaml"
        recipe = {**recipe, "experiment": {**recipe["experiment"], "output_dir": str(output_dir / name)}}
        write_text(path, yaml.safe_dump(recipe, sort_keys=False))
        run([*launch, str(SCRIPTS / "train_mri_titok.py"), f"config={path}"], f"the training of {name}")


def table_of(models: dict[str, Any], independent: dict[str, bool]) -> list[dict[str, Any]]:
    """One row for each arm, the full recipe first: its figures, and their differences from the full recipe.

    Args:
        models: {arm: {"mean": {figure: value}}}, as in summary.json; None for a figure that was not measured.
        independent: arm -> whether the segmenter of the evaluation did not teach it; empty without a segmenter.
    """
    # The name of a ladder has its rate.
    models = {name.partition(", ")[0]: model for name, model in models.items()}
    independent = {name.partition(", ")[0]: value for name, value in independent.items()}
    full = models[FULL]["mean"]
    rows = []
    for name in sorted(models, key=lambda name: name != FULL):
        mean = models[name]["mean"]
        figures = {key: mean.get(key) for key in FIGURES if full.get(key) is not None}
        change = {f"{key}_change": None if value is None else value - full[key] for key, value in figures.items()}
        taught = int(not independent.get(name, True))
        rows.append({"arm": name, **figures, **change, "segmenter_taught_model": taught})
    return rows


def text_of(rows: list[dict[str, Any]]) -> str:
    """The table as text, each figure with its difference from the full recipe."""
    shown = [key for key in FIGURES if key in rows[0]]
    lines = ["arm".ljust(24) + "".join(FIGURES[key][0].rjust(22) for key in shown)]
    for row in rows:
        cells = []
        for key in shown:
            decimals = FIGURES[key][1]
            value, change = row[key], row[f"{key}_change"]
            cell = "–" if value is None else f"{value:.{decimals}f}"
            cell = cell if row["arm"] == FULL or value is None else f"{cell} ({change:+.{decimals}f})"
            cells.append(f"{cell} {MARK}" if is_marked(row, key) else cell)
        lines.append(str(row["arm"]).ljust(24) + "".join(cell.rjust(22) for cell in cells))
    return "\n".join(lines + ([TAUGHT] if any(is_marked(row, key) for row in rows for key in shown) else []))


def is_marked(row: dict[str, Any], key: str) -> bool:
    """Whether a figure was measured by a segmenter that taught the arm."""
    return bool(key in HEART and row[key] is not None and row["segmenter_taught_model"])


def csv_of(rows: list[dict[str, Any]]) -> str:
    """The table as CSV."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def draw(rows: list[dict[str, Any]], path: Path, caption: str) -> None:
    """Save bars of the differences between each arm and the full recipe."""
    shown = [key for key in FIGURES if key in rows[0]]
    arms = [row for row in rows if row["arm"] != FULL]
    figure = Figure(figsize=(3.2 * len(shown), 1.2 + 0.4 * len(arms)), layout="constrained")
    for index, (ax, key) in enumerate(zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True)):
        ax.barh([row["arm"] for row in arms], [row[f"{key}_change"] or 0 for row in arms], color=COLORS[index])
        ax.axvline(0, color=INK, linewidth=0.8)
        mark = f" {MARK}" if any(is_marked(row, key) for row in rows) else ""
        ax.set_xlabel(f"{FIGURES[key][0]}, change{mark}", color=INK, fontsize=8)
        ax.tick_params(labelsize=8, labelleft=index == 0)
        ax.invert_yaxis()
        ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle(caption, fontsize=9, color=INK)
    save(figure, path)


def parse_arguments(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The options of the ablation, and the `key=value` arguments of the recipe."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s config=RECIPE experiment.output_dir=FOLDER [key=value ...] [options]",
    )
    add = parser.add_argument
    add("recipe", nargs="+", metavar="key=value", help="recipe and options of a training")
    add("--terms", nargs="+", metavar="LOSS", help="losses to switch off, one at a time (default: all of the recipe)")
    add("--segmenter", metavar="PATH", help="reference segmenter for all arms (default: that of full)")
    add("--split", choices=SPLITS, default="test", help="split for the evaluation of the arms (default test)")
    add("--launch", default="accelerate launch", help="command that starts a training (default 'accelerate launch')")
    args = parser.parse_intermixed_args(argv)
    return args, args.recipe


@user_errors()
def main(argv: list[str] | None = None) -> None:
    args, recipe = parse_arguments(argv)
    config = parse(RunConfig, recipe)
    arms, output_dir = arms_of(to_plain(config), args.terms), Path(config.experiment.output_dir)
    train(arms, output_dir, shlex.split(args.launch))
    models = [str(output_dir / name) for name in arms]
    report = output_dir / "report"
    command = [sys.executable, str(SCRIPTS / "evaluate.py"), "--model", *models, "--data", config.dataset.shards]
    command += ["--split", args.split, "--output_dir", str(report)]
    run(command + (["--segmenter", args.segmenter] if args.segmenter else []), "the evaluation")
    summary = read_json(report / "summary.json")
    rows = table_of(summary["models"], summary.get("reference_segmenter", {}).get("independent_of", {}))
    about = {"data": summary["data"], "split": args.split, "patients": summary["n"]}
    settings = {"max_steps": config.training.max_steps, "seed": config.experiment.seed}
    caption = f"{summary['data']}, {args.split}, n = {summary['n']}; {settings['max_steps']} steps an arm"
    if any(is_marked(row, key) for row in rows for key in HEART if key in row):
        caption += f"\n{TAUGHT}"
    write_json(output_dir / "ablation.json", {**about, **settings, "losses": list(config.losses), "arms": rows})
    write_text(output_dir / "ablation.csv", csv_of(rows))
    draw(rows, output_dir / "ablation.png", f"Change without each loss, compared with all losses: {caption}")
    print(f"{text_of(rows)}\n{caption.splitlines()[0]}; the change from {FULL} is in brackets")
    print(f"The table is {output_dir / 'ablation.csv'} (also .json and .png); the report is {report / 'index.html'}")


if __name__ == "__main__":
    main()
