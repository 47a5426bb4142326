"""The log of a run is read as curves, and drawn as one picture."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from utils.report.drawing import curves
from utils.report.drawing.curves import Curve, draw_curves, grid, pick_keys, read_curves


def write_log(folder: Path, *lines: dict[str, Any] | str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    texts = (line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    (folder / "log.jsonl").write_text("".join(texts))
    return folder


def test_a_curve_has_the_steps_of_its_lines_and_nan_for_null(tmp_path: Path) -> None:
    write_log(
        tmp_path,
        {"step": 50, "loss": 2.0, "grad_norm": None, "leak": "a text"},
        {"step": 100, "loss": 1.0, "grad_norm": 3},
        {"step": 100, "val_psnr": 20.5},
    )
    found = read_curves(tmp_path)
    assert list(found) == ["loss", "grad_norm", "val_psnr"]
    assert found["loss"] == Curve([50, 100], [2.0, 1.0]) and found["val_psnr"] == Curve([100], [20.5])
    assert found["grad_norm"].steps == [50, 100] and math.isnan(found["grad_norm"].values[0])


def test_values_of_a_section_stand_under_their_own_names(tmp_path: Path) -> None:
    write_log(tmp_path, {"step": 1, "loss": 1.0, "speed": {"frames_per_s": 30.5, "data_wait": None}})
    found = read_curves(tmp_path)
    assert found["frames_per_s"].values == [30.5] and math.isnan(found["data_wait"].values[0])


def test_of_steps_that_a_resumed_run_repeats_the_later_line_counts(tmp_path: Path) -> None:
    values = ((10, 4.0), (20, 3.0), (30, 2.0), (20, 3.5), (30, 2.5), (40, 1.0))
    write_log(tmp_path, *({"step": step, "loss": loss} for step, loss in values))
    assert read_curves(tmp_path)["loss"] == Curve([10, 20, 30, 40], [4.0, 3.5, 2.5, 1.0])


def test_an_incomplete_last_line_is_left_out(tmp_path: Path) -> None:
    write_log(tmp_path, {"step": 10, "loss": 4.0}, '{"step": 20, "lo')
    assert read_curves(tmp_path)["loss"] == Curve([10], [4.0])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("step 20: 3.0\n", r"log\.jsonl, line 2: not JSON: 'step 20: 3\.0'; correct or remove it"),
        ("[1]\n", r"log\.jsonl, line 2: expected an object with a whole number `step`, found '\[1\]'"),
        ('{"loss": 1.0}\n', r"line 2: expected an object with a whole number `step`"),
    ],
)
def test_another_line_is_an_error_that_names_file_and_line(tmp_path: Path, broken: str, message: str) -> None:
    write_log(tmp_path, {"step": 10, "loss": 4.0}, broken, {"step": 30, "loss": 2.0})
    with pytest.raises(ValueError, match=message):
        read_curves(tmp_path)


def test_a_folder_without_a_log_or_without_values_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file; give the output folder of a training run"):
        read_curves(tmp_path)
    for lines in ([], [{"step": 0, "leak": "a text"}], [{"step": 1, "loss": None}]):
        with pytest.raises(ValueError, match="no values yet"):
            read_curves(write_log(tmp_path, *lines))


def test_losses_come_first_then_held_out_values_and_no_counts_unless_chosen() -> None:
    one = Curve([1], [1.0])
    names = ("learning_rate", "loss", "flow", "count_flow", "val_psnr", "eta_s", "perplexity")
    runs = {"a": dict.fromkeys(names, one), "b": {"val_dice_RV": one}}
    assert pick_keys(runs) == ["loss", "flow", "val_psnr", "val_dice_RV", "learning_rate", "perplexity"]
    assert pick_keys(runs, ["count_flow", "loss", "loss"]) == ["count_flow", "loss"]
    with pytest.raises(ValueError, match="--keys val_psn: no run has this value; use val_psnr"):
        pick_keys(runs, ["val_psn"])
    with pytest.raises(ValueError, match="--keys zzz: no run has this value; use learning_rate, loss, flow, val_psnr"):
        pick_keys(runs, ["zzz"])


def test_the_grid_has_a_place_for_every_panel() -> None:
    for panels in range(1, 40):
        rows, columns = grid(panels)
        assert (rows - 1) * columns < panels <= rows * columns and columns <= 5


def test_the_picture_has_a_panel_a_quantity_a_colour_a_run_and_gaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(curves, "save", lambda figure, path: figures.append(figure))
    loss = Curve([10, 20, 30], [5.0, math.nan, 0.1])
    first = {"loss": loss, "flow": Curve([10], [0.2]), "count_flow": Curve([10], [8.0])}
    draw_curves(tmp_path / "a.png", {"one": first, "two": {"loss": Curve([10, 20], [4.0, 3.0])}}, "two runs")
    shown = [ax for ax in figures[0].axes if ax.get_visible()]
    assert [ax.get_title() for ax in shown] == ["loss (log scale)", "flow"]
    assert [ax.get_yscale() for ax in shown] == ["log", "linear"]
    one, two = (line for line in shown[0].lines if len(line.get_xdata()))
    assert one.get_color() != two.get_color() and list(one.get_xdata()) == loss.steps
    assert math.isnan(one.get_ydata()[1])
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["one", "two"]


def test_a_picture_of_one_run_is_a_png_without_a_legend(tmp_path: Path) -> None:
    draw_curves(tmp_path / "a.png", {"one": {"loss": Curve([1], [1.0])}}, "one run")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
