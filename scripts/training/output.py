"""What a run writes beside its checkpoints: log, record of its starts, exported models."""

import math
from pathlib import Path
from typing import Any

from modeling.titok import TiTok
from modeling.weights.pretrained import export_config
from scripts.recipe import RunConfig
from utils.checkpoint import export, save_checkpoint
from utils.run.log import RunLog
from utils.run.record import record_start


def open_log(config: RunConfig, plain: dict[str, Any], start: int, device: str, ranks: int, leak: str | None) -> RunLog:
    """Open the log of the main rank and record the start of the run in run.json."""
    options, folder = config.experiment, Path(config.experiment.output_dir)
    run_id = record_start(folder, start, device, ranks)["run_id"]
    log = RunLog(folder, True, start, options.wandb, options.tensorboard, plain, run_id)
    if leak is not None and not start:
        log.write(start, {"leak": leak})
    return log


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


def write_output(folder: Path, config: dict[str, Any], model: TiTok) -> None:
    """Write the trained model: config.json and model.safetensors for users, checkpoint_last.pth for the next stage."""
    taught_by, weights = model.teachers(), model.state_dict()
    counts = model.token_counts or None
    export(folder, export_config(config["model"], taught_by, model.conditioning.leak, counts), weights)
    save_checkpoint(folder / "checkpoint_last.pth", {**config, "taught_by": taught_by}, weights)
