"""Losses say what they need of a recipe, and a recipe that lacks it is refused before any weights are read."""

from pathlib import Path
from typing import Any

import pytest

from modeling.config import ModelConfig
from modeling.needs import REMEDIES, WORDS, check_needs, provides
from modeling.objective import build_objective
from tests.tiny import REPOSITORY
from tests.training import STAGE2, train
from utils.config import registry

RESNET18 = {"name": "resnet18"}


@pytest.mark.parametrize("name", registry.names("modeling.losses"))
def test_every_loss_declares_what_it_needs(name: str) -> None:
    if name == "lpips":
        pytest.importorskip("lpips", reason="an optional extra")
    needs = build_objective({name: {}}).needs[name]
    assert needs and set(needs) <= set(REMEDIES) == set(WORDS)


@pytest.mark.parametrize(
    ("loss", "options", "model", "data", "lacks"),
    [
        ("perceptual", {}, {}, ("slice", True, False), "a segmenter"),
        ("volume", {}, {}, ("stack", False, False), "a segmenter"),
        ("cycle", {"curve": 1.0}, {}, ("slice", True, False), "a segmenter"),
        ("segmentation", {}, {"conditioning": RESNET18}, ("slice", False, False), "key frames"),
        ("disease", {}, {"conditioning": RESNET18}, ("slice", True, False), "stacks"),
        ("flow", {}, {"decoder": "none", "conditioning": RESNET18}, ("slice", True, False), "a decoder"),
        ("commitment", {}, {}, ("slice", False, True), "encoded tokens"),
        ("resampling", {}, {}, ("stack", False, False), "a resampler"),
    ],
)
def test_what_a_recipe_lacks_is_named_with_the_loss_and_the_remedy(
    loss: str, options: dict[str, Any], model: dict[str, Any], data: tuple[str, bool, bool], lacks: str
) -> None:
    needs = build_objective({loss: options}).needs
    with pytest.raises(ValueError, match=rf"losses\.{loss} needs {lacks}.*: .*, or give losses=.*without {loss}"):
        check_needs(needs, provides(ModelConfig(**model), *data))


def test_parts_that_are_off_need_nothing() -> None:
    check_needs(build_objective({"cycle": {}}).needs, provides(ModelConfig(), "slice", False, False))


def test_training_refuses_before_it_looks_for_weights(tmp_path: Path, phantom_shards: Path) -> None:
    (tmp_path / "r.yaml").write_text(STAGE2)
    done = train(tmp_path, "r", phantom_shards, "out", "losses={perceptual: {}}", "experiment.init_weight=nowhere")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and errors and "losses.perceptual needs a segmenter" in errors[0]
    assert "model.conditioning={name: resnet18}" in errors[0] and not (tmp_path / "out").exists()


def test_labels_are_looked_for_in_the_data(tmp_path: Path) -> None:
    from data.case import CineCase
    from tests.shards import made_up, make_shards

    def bare(number: int) -> CineCase:
        return made_up(number, 2, 4, ed=None, es=None)

    shards = make_shards(tmp_path / "shards", [bare(1), bare(2)])
    (tmp_path / "r.yaml").write_text(STAGE2)
    more = ("model.conditioning={name: resnet18}", "dataset.key_frames=true", "losses={flow: {}, segmentation: {}}")
    done = train(tmp_path, "r", shards, "out", *more)
    assert done.returncode == 1 and "losses.segmentation needs labels" in done.stderr


def test_the_docs_name_the_losses_that_go_without_conditioning() -> None:
    text = (REPOSITORY / "docs" / "training.md").read_text()
    assert "'losses={flow: {weight: 1.0}, pixel: {weight: 1.0, kind: l1}, cycle: {weight: 0.02}}'" in text
