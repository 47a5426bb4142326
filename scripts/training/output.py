"""Output of a run besides its checkpoints: log, record of its starts, exported models."""

import math
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit

from modeling.titok import TiTok
from modeling.weights.card import NAME as CARD
from modeling.weights.card import write_card
from modeling.weights.pretrained import export_config
from scripts.recipe import RunConfig
from utils.checkpoint import export, save_checkpoint
from utils.run.log import RunLog
from utils.run.record import record_start

CHECKPOINT = "checkpoint_last.pth"


def open_log(config: RunConfig, plain: dict[str, Any], start: int, device: str, ranks: int, leak: str | None) -> RunLog:
    """Open the log of the main rank and record the start of the run in run.json."""
    options, folder = config.experiment, Path(config.experiment.output_dir)
    run_id = record_start(folder, start, device, ranks)["run_id"]
    log = RunLog(folder, True, start, options.wandb, options.tensorboard, plain, run_id)
    if leak is not None and not start:
        log.write(start, {"leak": leak})
    return log


def best_of(saved: dict[str, Any], best_by: str | None) -> float | None:
    """Return the best value of the previews of a resumed run; None if another value decides from now on.

    Args:
        saved: the checkpoint.
        best_by: of the recipe.
    """
    return saved["best"] if saved["config"]["training"]["best_by"] == best_by else None


def is_better(best_by: str, values: dict[str, float], best: float | None) -> bool:
    """Return whether a preview is better than the best one so far.

    Args:
        best_by: name of a value; its lowest is the best with a minus sign before it.
        values: of the preview.
        best: value of the best preview so far; None for the first.
    Raises:
        ValueError: if the previews have no such value.
    """
    name = best_by.removeprefix("-")
    if name not in values:
        raise ValueError(f"training.best_by is {best_by}, expected one of {', '.join(values)}")
    value = values[name]
    if not math.isfinite(value) or best is None:
        return math.isfinite(value)
    return value < best if best_by.startswith("-") else value > best


def write_output(folder: Path, config: dict[str, Any], model: TiTok, token_counts: list[int], step: int) -> None:
    """Write the trained model: config.json, model.safetensors and README.md for users, checkpoint_last.pth for stages.

    Args:
        folder: of the output; an edited README.md in it is kept, with a note.
        config: the recipe as plain data.
        model: with the weights to write.
        token_counts: how often each id of the codebook was used; stored for layout `frame`, where files need it.
        step: number of steps that were trained.
    """
    taught_by, weights = model.teachers(), model.state_dict()
    counts = token_counts if model.config.layout == "frame" and any(token_counts) else None
    model.token_counts, model.training_record = counts, training_record(config, step)
    exported = export_config(config["model"], taught_by, model.conditioning.leak, counts, model.training_record)
    export(folder, exported, weights)
    if not write_card(folder, model.generate_model_card()):
        print(f"note: {folder}/{CARD} was edited and is kept; remove it and repeat the command for a new one")
    save_checkpoint(folder / CHECKPOINT, {**config, "taught_by": taught_by}, weights)


def training_record(config: dict[str, Any], step: int) -> dict[str, Any]:
    """Return the data of a training for the model card; folders without their paths.

    Args:
        config: the recipe as plain data.
        step: number of steps that were trained.
    """
    dataset, first = config["dataset"], config["experiment"]["init_weight"]
    start = {}
    if first is not None:
        path = PurePath(first)
        start = {"first_weights": path.parent.name if path.name == CHECKPOINT else path.name}
    return {
        "data": PurePath(urlsplit(dataset["shards"]).path).name,
        "unit": dataset["unit"],
        "steps": step,
        "samples_a_step": config["training"]["global_batch_size"],
        "losses": sorted(config["losses"]),
        **start,
        "seed": config["experiment"]["seed"],
    }
