"""Every number on a command line has a range, and one outside it is one line, before any work."""

import argparse
from pathlib import Path

import pytest

from data.shards.reader import ShardReader
from data.shards.remote import folder_or_url
from scripts import benchmark, convert_acdc_to_wds, make_phantom, pretokenize, show_augmentation
from tests.tiny import REPOSITORY

RECIPE = f"config={REPOSITORY / 'configs' / 'demo' / 'stage2.yaml'}"
NEEDED = {
    "data": ["--data", "nowhere"], "bound": ["--data", "nowhere"], "phases": ["--data", "nowhere", "--model", "none"],
    "memory": [RECIPE], "rehearse": [RECIPE], "scale": [RECIPE], "train": [RECIPE],
}  # fmt: skip


@pytest.mark.parametrize("command", benchmark.COMMANDS)
def test_every_number_of_a_benchmark_has_a_range(command: str) -> None:
    parser = argparse.ArgumentParser()
    module = benchmark.COMMANDS[command]
    module.add_arguments(parser)
    assert {action.dest for action in parser._actions if action.type in (int, float)} == module.RANGES.keys()


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("data", ["--seconds", "0"], "--seconds is 0, expected a number above 0"),
        ("data", ["--seconds", "nan"], "--seconds is nan"),
        ("data", ["--workers", "0", "-1"], "--workers is -1, expected a number from 0"),
        ("data", ["--rounds", "0"], "--rounds is 0"),
        ("tokenizer", ["--batch", "0"], "--batch is 0"),
        ("decode", ["--patch", "0"], "--patch is 0"),
        ("decode", ["--image_size", "-32"], "--image_size is -32"),
        ("ladder", ["--slices", "0"], "--slices is 0"),
        ("ladder", ["--rates", "nan"], "--rates is nan"),
        ("bound", ["--bits", "nan"], "--bits is nan"),
        ("bound", ["--limit", "0"], "--limit is 0"),
        ("phases", ["--limit", "-1"], "--limit is -1"),
        ("memory", ["--slices", "-1"], "--slices is -1"),
        ("train", ["--steps", "0"], "--steps is 0"),
    ],
)
def test_a_number_that_no_benchmark_can_use_is_one_line(
    command: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        benchmark.main([command, *NEEDED.get(command, []), *options])
    assert_one_line(capsys, message)


def test_a_rehearsal_without_a_recipe_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(["rehearse", "experiment.seed=1"])
    assert_one_line(capsys, "config=FILE is missing")


@pytest.mark.parametrize("option", [("--batch_frames", "0"), ("--workers", "-1"), ("--variants", "0")])
def test_the_numbers_of_pretokenize_are_checked(option: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        pretokenize.main([RECIPE, *option])
    assert_one_line(capsys, f"{option[0]} is {option[1]}, expected a number from")


def test_the_side_of_a_drawn_augmentation_is_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", "nowhere", "--config", "none.yaml", "--output_dir", "out", "--image_size", "-5"]
    monkeypatch.setattr("sys.argv", ["show_augmentation", *options])
    with pytest.raises(SystemExit):
        show_augmentation.main()
    assert_one_line(capsys, "--image_size is -5")


@pytest.mark.parametrize("size", ["inf", "nan", "0"])
def test_the_size_of_a_shard_is_a_finite_number(
    size: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["convert", "--input_dir", "nowhere", "--output_dir", "out", "--shard_mib", size])
    with pytest.raises(SystemExit):
        convert_acdc_to_wds.main()
    assert_one_line(capsys, f"--shard_mib is {size}, expected a number above 0")


def assert_one_line(capsys: pytest.CaptureFixture[str], message: str) -> None:
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1


def test_a_tilde_after_an_equals_sign_is_the_home_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    options = [
        "--source",
        "phantom",
        "--source_option",
        "patients=1",
        "size=48",
        "spacing_mm=4",
        "slices=1",
        "phases=2",
    ]
    monkeypatch.setattr("sys.argv", ["convert", *options, "--output_dir=~/shards", "--workers=1"])
    convert_acdc_to_wds.main()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert ShardReader(folder_or_url("~/shards"), "train").patients().keys() == {"patient001"}


@pytest.mark.parametrize("text", ["[]", "{}", '{"patients": "3"}', "null"])
def test_a_record_of_another_content_is_no_cohort(tmp_path: Path, text: str) -> None:
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(ValueError, match=r"settings.json: expected the settings of a phantom cohort"):
        make_phantom.check_folder(tmp_path, {"patients": 3})


@pytest.mark.parametrize("text", ["[]", "{}", "null"])
def test_a_record_of_another_content_is_no_token_cache(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokens.json").write_text(text)
    with pytest.raises(ValueError, match="holds something else"):
        pretokenize.is_done(tmp_path, {"unit": "slice"})
