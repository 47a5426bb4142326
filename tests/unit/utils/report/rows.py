"""Rows of two models and two patients, as an evaluation writes them."""

from typing import Any

from utils.clinical import KEY_FRAMES
from utils.labels import STRUCTURES
from utils.report import evaluation
from utils.report.columns import BASELINE_METRICS, HEART_METRICS, METRICS
from utils.report.drawing.cine import Cine
from utils.report.heart import MEASURED


def make_row(patient: str, value: float, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"patient": patient, "slices": 2, "phases": 3, **dict.fromkeys(METRICS, value)}
    quality = dict.fromkeys(BASELINE_METRICS, value / 2)
    return {**row, "psnr_ceiling": None, "curve": [value] * 3, "baselines": {"mean_frame": quality}, **changes}


def with_heart(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the metrics of a scored heart."""
    places = [f"{kind}_{s}_{phase}" for kind in ("dice", "hd95", "assd") for s in STRUCTURES for phase in KEY_FRAMES]
    keys = [f"{key}{suffix}" for key in (*places, *MEASURED) for suffix in ("", "_original")]
    keys += [f"{key}_truth" for key in MEASURED]
    return {**row, **dict.fromkeys((*keys, *HEART_METRICS), 0.5)}


def make_rows() -> dict[str, list[dict[str, Any]]]:
    return {
        "stage1": [make_row("patient001", 20.0), make_row("patient002", 30.0)],
        "stage2": [make_row("patient001", 30.0), make_row("patient002", 40.0)],
    }


def make_summary(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    made = evaluation.summarize(rows, {"mean_frame": "of 2 train patients"})
    about = {"data": "acdc_wds", "modality": "4d_mri", "split": "test", "notes": ["the field is <S>"]}
    return {**made, **about, "command_line": "python scripts/evaluate.py"}


def make_pictures(text: str = "text") -> evaluation.Pictures:
    """Empty pictures; all their texts are the given one."""
    figure = evaluation.Figure(text, text, b"<svg/>")
    cines = [evaluation.CineRow(text, text, Cine(b"\x89PNG", moving, "")) for moving in (b"RIFF", b"")]
    patients = [evaluation.Patient(text, text, shown, [figure]) for shown in (cines, [])]
    return evaluation.Pictures(figure, cines, text, figure, figure, patients)
