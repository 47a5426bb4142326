"""The strip shows original, reconstruction and error of one patient, and its caption states quality and rate."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from data.shards.reader import ShardReader
from scripts import draw_strip
from tests.tiny import tiny_config, tiny_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder)
    return folder


def arguments(model: Path, shards: Path, output: Path, *more: str, patient: str = "patient004") -> list[str]:
    given = ["--model", model, "--data", shards, "--split", "test", "--patient", patient, "--output", output]
    return [*map(str, given), "--device", "cpu", *more]


def test_the_strip_is_written_and_its_caption_states_data_quality_and_rate(
    model: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "pictures" / "strip.png"
    draw_strip.main(arguments(model, shards, output, "--label", "phantom"))
    width, height = Image.open(output).size
    assert width > height > 300
    said = capsys.readouterr().out
    assert "phantom, patient004, slice 2 of 2" in said and str(output) in said
    assert "dB" in said and "bits a frame" in said


def test_rows_are_original_reconstruction_and_their_absolute_difference(
    model: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    monkeypatch.setattr(draw_strip, "save", lambda figure, path: figures.append(figure))
    args = draw_strip.parse_arguments(arguments(model, shards, tmp_path / "a.png", "--columns", "3"))
    strip = draw_strip.make_strip(args)
    draw_strip.draw_strip(args.output, strip, args.columns)
    axes = [ax for ax in figures[0].axes if ax.images and ax.get_label() != "<colorbar>"]
    pictures = [np.asarray(ax.images[0].get_array()) for ax in axes]
    assert len(pictures) == 3 * 3
    original, decoded, error = (np.stack(pictures[first : first + 3]) for first in (0, 3, 6))
    shown = [0, 1, 3]  # of 5 phases
    assert np.array_equal(original, strip.original[shown]) and np.array_equal(decoded, strip.reconstruction[shown])
    assert np.allclose(error, abs(original - decoded)) and error.max() > 0
    case = ShardReader(shards, "test").read_case("patient004")
    assert strip.key_frames == {case.ed: "ED", case.es: "ES"}


def test_a_cine_of_few_phases_has_one_column_a_phase(model: Path, shards: Path, tmp_path: Path) -> None:
    draw_strip.main(arguments(model, shards, tmp_path / "a.png", "--columns", "50"))
    assert (tmp_path / "a.png").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patient": "patient009"}, "patient009 is not in the split test of shards; it has 1 patients: patient004"),
        ({"output": "strip.jpg"}, "ends in .png"),
        ({"model": "nowhere"}, "no such folder"),
        ({"columns": "0"}, "--columns is 0, expected a number from 1"),
    ],
)
def test_a_mistake_is_one_clear_line(
    change: dict[str, str], message: str, model: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(model, shards, tmp_path / "a.png", "--columns", "2")
    for name, value in change.items():
        given[given.index(f"--{name}") + 1] = value
    with pytest.raises(SystemExit):
        draw_strip.main(given)
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "a.png").exists()


def test_a_segmenter_is_refused(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from modeling.titok import TiTok

    TiTok(tiny_config(decoder="none", conditioning="resnet18")).save_pretrained(tmp_path / "segmenter")
    with pytest.raises(SystemExit):
        draw_strip.main(arguments(tmp_path / "segmenter", shards, tmp_path / "a.png"))
    assert "cannot decode" in capsys.readouterr().err


def test_grey_images_stay_grey_beside_a_coloured_error_map(tmp_path: Path) -> None:
    figure, random = Figure(figsize=(4, 4)), np.random.default_rng(0)
    for number, colours in enumerate(("gray", "inferno")):
        ax = figure.add_axes((0, 0.5 - 0.5 * number, 1, 0.5))
        ax.imshow(random.random((40, 80)), cmap=colours, vmin=0, vmax=1, aspect="auto")
        ax.axis("off")
    draw_strip.save(figure, tmp_path / "strip.png")
    pixels = np.asarray(Image.open(tmp_path / "strip.png").convert("RGB")).astype(int)
    grey = pixels[: len(pixels) // 2 - 4]
    assert np.ptp(grey, axis=2).max() < 8
