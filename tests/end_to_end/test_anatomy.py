"""Anatomy through training: a segmenter alone, brought along to stage 2, or trained inside it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeling.titok import TiTok
from scripts import evaluate
from tests.training import STAGE1, STAGE2, curve, train

SEGMENTER = """
model: {geometry: crop, decoder: none, tokenizer: {vq_model: {image_size: 32}}, conditioning: {name: resnet18}}
losses: {segmentation: {}}
dataset: {unit: slice, phases: 2, key_frames: true, workers: 0, augment: {enabled: true, flip: true, rotate_degrees: 9}}
optimizer: {learning_rate: 1.0e-3, warmup_steps: 2}
training: {trainable: ["conditioning.segmenter.*"], max_steps: 4, global_batch_size: 4, log_every: 1, preview_every: 4,
  checkpoint_every: 2}
"""
ALL_LOSSES = (
    "losses={flow: {}, pixel: {}, segmentation: {}, segmentation_reconstruction: {warmup_steps: 1}, volume: {}}"
)
BROUGHT = ("model.conditioning={name: resnet18, weights: segmenter}", "dataset.key_frames=true")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, phantom_shards: Path) -> Path:
    """A stage 1 and a segmenter."""
    folder = tmp_path_factory.mktemp("anatomy")
    for name, text in (("stage1", STAGE1), ("stage2", STAGE2), ("segmenter", SEGMENTER)):
        (folder / f"{name}.yaml").write_text(text)
    for name in ("stage1", "segmenter"):
        done = train(folder, name, phantom_shards, name)
        assert done.returncode == 0, done.stderr
    return folder


def stage2(workplace: Path, shards: Path, output: str, *more: str) -> dict[str, torch.Tensor]:
    done = train(workplace, "stage2", shards, output, "experiment.init_weight=stage1/checkpoint_last.pth", *more)
    assert done.returncode == 0, done.stderr
    return load_file(workplace / output / "model.safetensors")


def test_a_segmenter_recipe_needs_no_tokenizer_and_leaves_a_segmenter_with_its_curves(workplace: Path) -> None:
    keys = load_file(workplace / "segmenter" / "model.safetensors")
    assert all(key.startswith("conditioning.") for key in keys)
    model = TiTok.from_pretrained(workplace / "segmenter")
    assert model.segmenter is not None and model.segmenter.labels(torch.rand(1, 1, 32, 32)).shape == (1, 32, 32)
    assert len(curve(workplace / "segmenter", "segmentation")) == 4
    assert len(curve(workplace / "segmenter", "val_dice_LV")) == 1
    assert list((workplace / "segmenter" / "samples").glob("*.png"))


def test_a_segmenter_that_is_brought_along_and_frozen_is_not_moved_by_a_bit(
    workplace: Path, phantom_shards: Path
) -> None:
    alone = load_file(workplace / "segmenter" / "model.safetensors")
    trained = 'training.trainable=["dit.*", "conditioning.tokens.*"]'
    frozen = stage2(workplace, phantom_shards, "brought", *BROUGHT, trained, ALL_LOSSES)
    names = [key for key in alone if key.startswith("conditioning.segmenter.")]
    assert names and all(torch.equal(alone[key], frozen[key]) for key in names)
    for name in ("segmentation", "volume", "val_psnr", "val_dice_LV"):
        assert curve(workplace / "brought", name)
    model = TiTok.from_pretrained(workplace / "brought")
    tokens = model.encode(torch.rand(1, 1, 32, 32, 2, 3))
    assert tokens.shape == (1, 2, 2 + 3 * 8 + 2 * 4)
    config = json.loads((workplace / "brought" / "config.json").read_text())
    assert config["model"]["conditioning"]["name"] == "resnet18"


def test_a_segmenter_can_be_trained_inside_stage_two(workplace: Path, phantom_shards: Path) -> None:
    options = ("model.conditioning={name: resnet18}", "dataset.key_frames=true", ALL_LOSSES)
    inside = stage2(workplace, phantom_shards, "inside", *options, 'training.trainable=["dit.*", "conditioning.*"]')
    before = stage2(workplace, phantom_shards, "still", *options, 'training.trainable=["dit.*"]')
    moved = [key for key in inside if key.startswith("conditioning.") and not torch.equal(inside[key], before[key])]
    assert any(key.startswith("conditioning.segmenter.") for key in moved)
    assert any(key.startswith("conditioning.tokens.") for key in moved)


def test_whole_stacks_train_a_tokenizer_and_a_decoder_with_all_losses_of_the_heart(
    workplace: Path, phantom_shards: Path
) -> None:
    stacks = ("dataset.unit=stack", "dataset.phases=2", "training.global_batch_size=2")
    done = train(workplace, "stage1", phantom_shards, "stacks1", *stacks)
    assert done.returncode == 0, done.stderr
    options = ("model.conditioning={name: resnet18}", ALL_LOSSES, 'training.trainable=["dit.*", "conditioning.*"]')
    stage2(workplace, phantom_shards, "stacks2", *stacks, *options)
    for name in ("flow", "pixel", "segmentation", "volume"):
        assert len(curve(workplace / "stacks2", name)) == 4
    assert curve(workplace / "stacks2", "val_dice_LV") and curve(workplace / "stacks1", "perplexity")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("model.conditioning={name: resnet18}",), "dataset.key_frames"),
        (("model.conditioning={name: resnet18, weights: stage1}", "dataset.key_frames=true"), "holds no segmenter"),
        (("losses={pixel: {}, volume: {}}",), "needs a segmenter"),
        ((*BROUGHT, "dataset.unit=frame"), "slice"),
    ],
)
def test_what_anatomy_needs_is_said_when_it_is_missing(
    more: tuple[str, ...], says: str, workplace: Path, phantom_shards: Path
) -> None:
    done = train(
        workplace, "stage2", phantom_shards, "never", "experiment.init_weight=stage1/checkpoint_last.pth", *more
    )
    assert done.returncode != 0 and says in done.stderr


def test_a_model_that_encodes_ground_truth_is_stamped_everywhere_and_scored_as_an_upper_bound(
    workplace: Path, phantom_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("model.conditioning={name: mask, width: 32}", "dataset.key_frames=true", "model.dit.fusion=early")
    start = "experiment.init_weight=stage1/checkpoint_last.pth"
    done = train(workplace, "stage2", phantom_shards, "leaky", start, *more)
    assert done.returncode == 0 and "note: LEAK: ground-truth masks" in done.stdout, done.stderr
    assert "ground-truth masks" in json.loads((workplace / "leaky" / "config.json").read_text())["leak"]
    assert "ground-truth masks" in json.loads((workplace / "leaky" / "log.jsonl").read_text().splitlines()[0])["leak"]
    report = workplace / "leaky_report"
    evaluate.main(["--model", str(workplace / "leaky"), "--data", str(phantom_shards), "--split", "val", "--device",
                   "cpu", "--output_dir", str(report), "--segmenter", str(workplace / "segmenter")])  # fmt: skip
    assert any(
        "LEAK: leaky: ground-truth" in note for note in json.loads((report / "summary.json").read_text())["notes"]
    )
    assert "LEAK: leaky" in (report / "index.html").read_text()
    with pytest.raises(ValueError, match="not saved"):
        TiTok.from_pretrained(workplace / "leaky").save_pretrained(workplace / "published")
