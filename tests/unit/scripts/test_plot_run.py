"""The command that draws the curves of runs: where its picture goes, and what it refuses."""

import json
from pathlib import Path

import pytest

from scripts import plot_run


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
        lines = ({"step": step, "loss": 1 / step, "count_loss": 2.0} for step in (1, 2))
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folders


def test_the_picture_of_one_run_lies_in_its_folder_and_of_several_in_the_current_one(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plot_run.main([str(runs[0])])
    assert (runs[0] / "curves.png").is_file() and "first, values loss: " in capsys.readouterr().out
    plot_run.main([*map(str, runs), "--keys", "loss", "count_loss"])
    assert (tmp_path / "curves.png").is_file()
    assert "first, second, values loss, count_loss: curves.png" in capsys.readouterr().out
    plot_run.main([str(runs[0]), "--output", "pictures/a.png"])
    assert (tmp_path / "pictures" / "a.png").is_file()


def test_runs_of_one_name_are_named_by_their_paths() -> None:
    assert plot_run.names_of([Path("a/stage1"), Path("b/stage2")]) == ["stage1", "stage2"]
    assert plot_run.names_of([Path("a/stage1"), Path("b/stage1")]) == ["a/stage1", "b/stage1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "log.jsonl: no such file; give the output folder"),
        (["first", "first/."], "first is given twice; leave one out"),
        (["first", "--output", "a.jpg"], "expected a file name that ends in .png"),
        (["first", "--keys", "los"], "--keys los: no run has this value; use loss"),
    ],
)
def test_a_mistake_is_one_clear_line_and_nothing_is_written(
    arguments: list[str],
    message: str,
    runs: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        plot_run.main(arguments)
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.rglob("*.png"))
