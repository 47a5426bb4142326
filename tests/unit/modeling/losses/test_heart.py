"""The laws of the losses of the heart: segmentation and volume."""

import pytest
import torch
from torch import Tensor

from modeling.heart.measures import slice_volumes_ml, soft_masks
from modeling.heart.segmenter import FixedSegmenter, Segmenter
from modeling.prediction import Prediction
from tests.losses import mean, sum_and_count
from utils.config import registry
from utils.types import Batch


class Given:
    """A segmenter whose logits are given."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


def hearts(spacing: float = 1.0, certainty: float = 40.0) -> tuple[Prediction, Batch]:
    """Two slices at phases 0, 1, 2 with ED at 2 and ES at 0; the second slice has no labels. Logits are the truth."""
    mask = torch.zeros(2, 1, 3, 32, 32, dtype=torch.uint8)
    mask[..., 4:10, 4:12] = 1
    mask[..., 12:24, 12:24] = 2
    mask[:, :, 2, 15:21, 15:21] = 3
    mask[:, :, 0, 17:19, 17:19] = 3
    has_label = torch.zeros(2, 1, 3, dtype=torch.bool)
    has_label[0, 0, [0, 2]] = True
    image, keys = torch.rand(2, 1, 3, 1, 32, 32), torch.tensor([[2, 0], [2, 0]])
    batch = Batch(
        image=image, mask=mask, has_label=has_label, field=torch.ones(2, 1, 32, 32, dtype=torch.bool),
        slice_position=torch.full((2, 1), 0.5), phase=torch.arange(3).expand(2, 3) / 3, key_frames=keys,
        spacing_mm=torch.full((2, 3), spacing), bsa_m2=torch.ones(2), sample_seed=torch.tensor([1, 2]),
        patient=torch.tensor([1, 2]), key=["a", "b"],
    )  # fmt: skip
    labels, _ = batch.key_labels()
    logits = certainty * torch.nn.functional.one_hot(labels, 4).movedim(-1, 3).float()
    zero = torch.zeros(2)
    return Prediction(image, image, zero, zero == 0, logits=logits, segmenter=Given(logits)), batch  # type: ignore[arg-type]


def test_labels_of_key_frames_come_as_ed_then_es() -> None:
    _, batch = hearts()
    labels, labelled = batch.key_labels()
    assert [(labels[0, 0, k] == 3).sum().item() for k in (0, 1)] == [36, 4]
    assert labelled.tolist() == [[[True, True]], [[False, False]]]


@pytest.mark.parametrize("overlap", ["dice", "iou"])
@pytest.mark.parametrize("name", ["segmentation", "segmentation_reconstruction"])
def test_segmentation_is_zero_for_right_logits_and_positive_for_wrong_ones(name: str, overlap: str) -> None:
    prediction, batch = hearts()
    assert mean(name, prediction, batch, overlap=overlap) == pytest.approx(0, abs=1e-5)
    wrong = prediction.logits.roll(1, dims=3)
    spoiled = prediction._replace(logits=wrong, segmenter=Given(wrong))
    assert mean(name, spoiled, batch, overlap=overlap) > 1


@pytest.mark.parametrize("name", ["segmentation", "segmentation_reconstruction", "volume"])
def test_frames_without_labels_never_count(name: str) -> None:
    prediction, batch = hearts()
    wrong = prediction.logits.clone()
    wrong[1] = wrong[1].roll(1, dims=2)
    spoiled = prediction._replace(logits=wrong, segmenter=Given(wrong))
    assert mean(name, spoiled, batch) == mean(name, prediction, batch)
    none = batch._replace(has_label=torch.zeros_like(batch.has_label))
    total, count = sum_and_count(name, prediction, none)
    assert (float(total), int(count)) == (0, 0)


def test_iou_costs_more_than_dice_where_structures_overlap_in_part() -> None:
    prediction, batch = hearts()
    moved = prediction._replace(logits=prediction.logits.roll(2, dims=4))
    assert mean("segmentation", moved, batch, overlap="iou") > mean("segmentation", moved, batch, overlap="dice") > 0


def test_each_segmentation_loss_depends_on_its_own_frames_alone() -> None:
    prediction, batch = hearts()
    wrong = prediction.logits.roll(1, dims=3)
    of_original, of_reconstruction = prediction._replace(logits=wrong), prediction._replace(segmenter=Given(wrong))
    for name, own, other in (
        ("segmentation", of_original, of_reconstruction),
        ("segmentation_reconstruction", of_reconstruction, of_original),
    ):
        assert mean(name, other, batch) == mean(name, prediction, batch) < mean(name, own, batch)


def test_the_weight_of_the_reconstruction_s_segmentation_does_not_follow_the_share_of_one_step_samples() -> None:
    prediction, batch = hearts()
    batch = batch._replace(has_label=batch.has_label[:1].expand(2, -1, -1))
    spoiled = prediction._replace(segmenter=Given(prediction.logits.roll(1, dims=3)))
    half = spoiled._replace(one_step=torch.tensor([True, False]))
    whole = mean("segmentation_reconstruction", spoiled, batch)
    assert mean("segmentation_reconstruction", half, batch) == pytest.approx(whole, rel=1e-5)


def test_the_reconstruction_is_segmented_after_the_warm_up_and_only_where_it_was_decoded_from_tokens_alone() -> None:
    prediction, batch = hearts()
    wrong = Given(prediction.logits.roll(1, dims=3))
    spoiled = prediction._replace(segmenter=wrong)
    name, options = "segmentation_reconstruction", {"warmup_steps": 10}
    assert mean(name, spoiled._replace(step=9), batch, **options) == 0
    assert mean(name, spoiled._replace(step=10), batch, **options) > 0
    assert mean(name, spoiled._replace(step=10, one_step=torch.zeros(2) > 0), batch, **options) == 0


@pytest.mark.parametrize("name", ["segmentation_reconstruction", "volume"])
def test_the_gradient_reaches_the_decoder_through_the_reconstruction_alone(name: str) -> None:
    torch.manual_seed(0)
    prediction, batch = hearts()
    x_hat = torch.rand(2, 1, 2, 1, 32, 32, requires_grad=True)
    segmenter = Segmenter()
    segmented = prediction._replace(segmenter=FixedSegmenter(segmenter, x_hat))
    sum_and_count(name, segmented, batch)[0].backward()
    assert x_hat.grad is not None and x_hat.grad[0].abs().sum() > 0 and x_hat.grad[1].abs().sum() == 0
    assert all(parameter.grad is None for parameter in segmenter.parameters())


def test_volume_is_zero_for_right_logits_and_grows_with_what_is_missing() -> None:
    prediction, batch = hearts(spacing=5.0)
    assert mean("volume", prediction, batch) == pytest.approx(0, abs=1e-6)
    missing = []
    for rows in (1, 3):
        logits = prediction.logits.clone()
        logits[:, :, :, 3, 15 : 15 + rows] = -40
        missing.append(mean("volume", prediction._replace(segmenter=Given(logits)), batch))
    assert 0 < missing[0] < missing[1]


def test_volume_is_measured_in_millilitres_of_the_true_spacing() -> None:
    prediction, _ = hearts()
    region = torch.ones(2, 1, 2, 32, 32, dtype=torch.bool)
    for spacing in (1.0, 2.0):
        spacings = torch.full((2, 3), spacing)
        ml = slice_volumes_ml(soft_masks(prediction.logits, region, sharpness=4.0), spacings)
        assert ml[0, 0, :, 2].tolist() == pytest.approx([36 * spacing**3 / 1000, 4 * spacing**3 / 1000], rel=1e-4)


def test_a_softmax_tail_far_from_the_heart_adds_no_volume() -> None:
    prediction, batch = hearts(spacing=5.0)
    logits = prediction.logits.clone()
    logits[..., 28:, 28:] = torch.tensor([0.0, -1.0, -1.0, -1.0])[:, None, None]  # unsure background in a corner
    assert mean("volume", prediction._replace(segmenter=Given(logits)), batch, margin_mm=15) == pytest.approx(
        0, abs=1e-6
    )
    assert mean("volume", prediction._replace(segmenter=Given(logits)), batch, margin_mm=150, sharpness=1.0) > 0


def test_volume_never_reads_intensities() -> None:
    prediction, batch = hearts()
    brighter = prediction._replace(image=prediction.image * 0.5, reconstruction=prediction.image * 0.1)
    assert mean("volume", brighter, batch) == mean("volume", prediction, batch)


def test_a_loss_that_lacks_its_segmenter_or_decoder_says_what_the_recipe_needs() -> None:
    prediction, batch = hearts()
    bare = prediction._replace(logits=None, segmenter=None, reconstruction=None)
    for name, needed in (("segmentation", "model.conditioning"), ("volume", "key_frames"), ("pixel", "model.decoder"),
                         ("commitment", "tokenizer")):  # fmt: skip
        with pytest.raises(ValueError, match=needed):
            mean(name, bare, batch)


def test_options_out_of_range_are_refused() -> None:
    bad = [("segmentation", {"overlap": "f1"}), ("segmentation_reconstruction", {"overlap": "f1"}),
           ("volume", {"delta": 0.0}), ("volume", {"margin_mm": 0})]  # fmt: skip
    for name, options in bad:
        with pytest.raises(ValueError, match=f"losses.{name}"):
            registry.build("modeling.losses", name, options, f"losses.{name}")
