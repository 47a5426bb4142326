"""The contact sheet shows what training would see, says where it is, and refuses what it cannot show."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.loading.augment import AugmentConfig
from data.loading.dataset import CineDataset
from scripts import show_augmentation
from scripts.recipe import RunConfig
from utils.config.recipe import parse

RECIPE = """
model: {geometry: crop}
dataset: {unit: slice, phases: 3, augment: {enabled: ENABLED, rotate_degrees: 20, flip: true, roll: true}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("ENABLED", "true"))
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["show_augmentation.py", *map(str, arguments)])
    show_augmentation.main()


def test_one_picture_is_written_and_the_user_is_told_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shards: Path, recipe: Path, tmp_path: Path
) -> None:
    run(
        monkeypatch,
        "--data",
        shards,
        "--config",
        recipe,
        "--output_dir",
        tmp_path / "sheet",
        "--samples",
        5,
        "--image_size",
        16,
    )
    (picture,) = (tmp_path / "sheet").iterdir()
    width, height = Image.open(picture).size
    assert height > width > 500
    said = capsys.readouterr().out
    assert str(picture) in said and "patient001_z01, patient002_z01" in said


def test_the_draws_are_those_of_the_first_epochs_of_training(shards: Path, recipe: Path) -> None:
    config = parse(RunConfig, [f"config={recipe}", "experiment.output_dir=unused"])
    draws = show_augmentation.sample_draws(config, 16, str(shards), 1)
    augment = AugmentConfig(True, rotate_degrees=20, flip=True, roll=True)
    trained = CineDataset(str(shards), "train", "slice", 16, "crop", key_frames=True, augment=augment)
    index = [entry.key for entry in trained.reader.samples].index(next(iter(draws)))
    for epoch, drawn in enumerate(next(iter(draws.values()))[1:]):
        assert all(np.array_equal(drawn[name], value) for name, value in trained[epoch, index].arrays.items())


def test_a_recipe_that_does_not_augment_and_no_samples_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shards: Path, recipe: Path, tmp_path: Path
) -> None:
    recipe.write_text(RECIPE.replace("ENABLED", "false"))
    given = ["--data", shards, "--config", recipe, "--output_dir", tmp_path / "sheet", "--image_size", 16]
    for more, message in (([], "dataset.augment.enabled=false"), (["--samples", 0], "--samples is 0")):
        with pytest.raises(SystemExit):
            run(monkeypatch, *given, *more)
        assert message in capsys.readouterr().err
    assert not (tmp_path / "sheet").exists()


def test_a_recipe_that_takes_its_grid_from_other_weights_is_not_guessed_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shards: Path, recipe: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "--data", shards, "--config", recipe, "--output_dir", tmp_path / "sheet")
    assert "recipe.yaml" in (error := capsys.readouterr().err) and "--image_size" in error
