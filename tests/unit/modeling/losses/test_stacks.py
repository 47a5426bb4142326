"""The laws of the losses of whole stacks, volume and disease, and of their measures."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from modeling.heart.measures import hard_masks, wall_thickness_mm
from modeling.losses.disease import hinge
from modeling.prediction import Prediction
from tests.losses import sum_and_count
from utils.config import registry
from utils.types import Batch

RADIUS = {"ED": 10.0, "ES": 5.0}  # mm of the LV; its EF is 75 %


class Given:
    """A segmenter whose logits are given."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


def labels_of(lv_mm: dict[str, float], wall_mm: float, spacing: float, slices: int) -> Tensor:
    """One stack: the LV a disc, MYO a ring around it, RV a box beside it, (1, D, 2, 48, 48)."""
    row, column = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    distance = ((row - 24).square() + (column - 24).square()).sqrt() * spacing
    frames = []
    for radius in lv_mm.values():
        frame = torch.zeros(48, 48)
        frame[18:30, 1 : 3 + int(radius / spacing) // 2] = 1
        frame[distance < radius + wall_mm] = 2
        frame[distance < radius] = 3
        frames.append(frame)
    return torch.stack(frames).long().expand(1, slices, -1, -1, -1)


def stacks(
    lv_mm: dict[str, float] = RADIUS, wall_mm: float = 8.0, spacing: float = 1.0, slices: int = 3, bsa: float = 1.0
) -> tuple[Prediction, Batch]:
    """A stack at ED and ES whose last slice is padding; logits are the truth, there and in the padding too."""
    labels = labels_of(lv_mm, wall_mm, spacing, slices)
    valid = torch.arange(slices) < max(1, slices - 1)
    mask = (labels * valid[None, :, None, None, None]).to(torch.uint8)
    image = torch.rand(1, slices, 2, 1, 48, 48)
    batch = Batch(
        image=image, mask=mask, has_label=valid[None, :, None].expand(-1, -1, 2),
        field=valid[None, :, None, None].expand(1, -1, 48, 48), slice_position=torch.full((1, slices), 0.5),
        phase=torch.tensor([[0.0, 0.4]]),
        key_frames=torch.tensor([[0, 1]]), spacing_mm=torch.full((1, 3), spacing), bsa_m2=torch.tensor([bsa]),
        sample_seed=torch.tensor([1]), patient=torch.tensor([1]), key=["a"],
    )  # fmt: skip
    zero = torch.zeros(1)
    segmenter: Any = Given(certain(labels))
    return Prediction(image, image, zero, zero == 0, segmenter=segmenter), batch


def certain(labels: Tensor) -> Tensor:
    return 40 * torch.nn.functional.one_hot(labels, 4).movedim(-1, 3).float()


def segmented_as(prediction: Prediction, labels: Tensor) -> Prediction:
    segmenter: Any = Given(certain(labels))
    return prediction._replace(segmenter=segmenter)


def total(name: str, prediction: Prediction, batch: Batch, **options: Any) -> tuple[float, int]:
    value, count = sum_and_count(name, prediction, batch, **options)
    return float(value), int(count)


def huber(error: float, delta: float = 0.1) -> float:
    return 0.5 * error**2 if abs(error) < delta else delta * (abs(error) - 0.5 * delta)


def pixels(batch: Batch, label: int, key: int, slices: int = 2) -> int:
    return int((batch.mask[0, :slices, key] == label).sum())


@pytest.mark.parametrize("part", ["slices", "stack", "ejection"])
def test_each_part_of_volume_is_zero_for_right_logits_and_positive_for_an_lv_that_does_not_beat(part: str) -> None:
    prediction, batch = stacks()
    parts = {"slices": 0.0, "stack": 0.0, "ejection": 0.0, part: 1.0}
    value, count = total("volume", prediction, batch, **parts)
    assert value == pytest.approx(0, abs=1e-8) and count == 2 * 2 * 3
    still = labels_of({"ED": 10.0, "ES": 10.0}, 8.0, 1.0, 3)
    assert total("volume", segmented_as(prediction, still), batch, **parts)[0] > 0.01


@pytest.mark.parametrize("spacing", [1.0, 1.5])
def test_stack_volumes_and_ef_are_those_of_the_true_spacing(spacing: float) -> None:
    prediction, batch = stacks(spacing=spacing)
    labels = batch.key_labels()[0].clone()
    labels[:, :, 1][labels[:, :, 1] == 3] = 2  # at ES the LV is gone, and its pixels are MYO
    ml = spacing**3 / 1000
    lv_ed, lv_es, myo_es = pixels(batch, 3, 0) * ml, pixels(batch, 3, 1) * ml, pixels(batch, 2, 1) * ml
    volumes = huber(math.log1p(lv_es)) + huber(math.log1p(myo_es + lv_es) - math.log1p(myo_es))
    stack = total("volume", segmented_as(prediction, labels), batch, slices=0.0, ejection=0.0)
    assert stack == (pytest.approx(2 * volumes, rel=1e-3), 12)  # stands in both slices
    ef_error = 1 - (lv_ed - lv_es) / lv_ed
    ejection = total("volume", segmented_as(prediction, labels), batch, slices=0.0, stack=0.0)
    assert ejection == (
        pytest.approx(12 * huber(ef_error) / 2, rel=1e-3),
        12,
    )  # of LV and RV, in each frame and structure


def test_without_an_end_diastolic_volume_there_is_no_ejection_fraction() -> None:
    prediction, batch = stacks()
    for label in (1, 3):
        batch.mask[batch.mask == label] = 0
    assert total("volume", prediction, batch, slices=0.0, stack=0.0)[0] == 0


def test_a_vanishing_ventricle_has_a_finite_ef_and_gradient() -> None:
    prediction, batch = stacks()
    logits = certain(torch.zeros(1, 3, 2, 48, 48).long()).requires_grad_()
    segmenter: Any = Given(logits)
    value, _ = sum_and_count("volume", prediction._replace(segmenter=segmenter), batch, slices=0.0)
    value.backward()
    assert value.isfinite() and logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize("name", ["volume", "disease"])
def test_padded_slices_and_intensities_are_never_measured(name: str) -> None:
    prediction, batch = stacks()
    still = labels_of({"ED": 10.0, "ES": 10.0}, 8.0, 1.0, 3).clone()
    expected = total(name, segmented_as(prediction, still), batch)
    still[:, -1] = 3
    brighter = prediction._replace(image=prediction.image * 0.5, reconstruction=prediction.image * 0.1)
    assert total(name, segmented_as(brighter, still), batch) == expected and expected[0] > 0


def test_a_single_slice_has_no_stack_and_a_stack_without_a_whole_truth_neither() -> None:
    for prediction, batch in (stacks(slices=1), stacks(slices=2)):  # of the second, one slice is padding
        still = labels_of({"ED": 10.0, "ES": 10.0}, 8.0, 1.0, batch.mask.shape[1])
        assert total("volume", segmented_as(prediction, still), batch, slices=0.0)[0] == 0
        assert total("disease", segmented_as(prediction, still), batch) == (0, 0)
    prediction, batch = stacks(slices=4)
    some = batch.has_label.clone()
    some[:, 0, 1] = False
    assert total("disease", prediction, batch._replace(has_label=some)) == (0, 0)
    assert total("disease", prediction, batch) == (0, 1)
    assert total("disease", prediction._replace(one_step=torch.tensor([False])), batch) == (0, 0)


@pytest.mark.parametrize("wall_mm", [6.0, 10.0, 14.0])
@pytest.mark.parametrize("spacing", [0.8, 1.2])
def test_the_wall_is_as_thick_as_the_ring_was_drawn(wall_mm: float, spacing: float) -> None:
    masks = hard_masks(labels_of({"ED": 8.0}, wall_mm, spacing, 2))[:, :, 0]
    wall, closed = wall_thickness_mm(masks, masks, torch.full((1, 3), spacing))
    fits = 24 * spacing > 8 + wall_mm
    assert closed.all() and (not fits or (wall - wall_mm).abs().max() < 0.5)


def test_an_open_or_absent_wall_has_no_thickness() -> None:
    masks = hard_masks(labels_of({"ED": 10.0}, 8.0, 1.0, 2))[:, :, 0]
    masks[0, 0, 1, :24] = 0
    masks[0, 1] = 0
    wall, closed = wall_thickness_mm(masks, masks, torch.ones(1, 3))
    assert not closed.any() and wall.isfinite().all()


HEARTS = [  # radii of the LV at ED and ES, and its wall, in mm
    ({"ED": 24.0, "ES": 20.0}, 6.0),  # EF 31 %
    ({"ED": 24.0, "ES": 8.0}, 6.0),  # EF 89 %, thin wall
    ({"ED": 12.0, "ES": 6.0}, 18.0),  # EF 75 %, thick wall
]


@pytest.mark.parametrize(("lv_mm", "wall_mm"), HEARTS)
@pytest.mark.parametrize("bsa", [0.2, 2.0, math.nan])
def test_disease_is_zero_on_identity_whatever_the_heart_and_body(
    lv_mm: dict[str, float], wall_mm: float, bsa: float
) -> None:
    assert total("disease", *stacks(lv_mm, wall_mm, 1.5, 20, bsa)) == (0, 1)


def test_losing_the_sign_of_a_disease_costs_the_distance_from_it_in_margins() -> None:
    """A failing LV (EF 31 %) drawn as a healthy one (EF 89 %): MINF, with EF as its only criterion, shows the hinge."""
    prediction, batch = stacks(HEARTS[0][0], 6.0, 1.5, 20, math.nan)
    healthy = labels_of(HEARTS[1][0], 6.0, 1.5, 20)
    term = registry.build("modeling.losses", "disease", {}, "losses.disease")
    assert total("disease", segmented_as(prediction, healthy), batch)[0] > 0.5
    values, known = torch.tensor([[60.0, 50.0, 80.0, 80.0, 8.0]]), torch.ones(1, 5, dtype=torch.bool)
    groups = dict(zip(("DCM", "HCM", "MINF", "NOR", "RV"), term.evidence(values, known)[0].tolist(), strict=True))
    assert groups == pytest.approx({"DCM": -2, "HCM": -7 / 1.5, "MINF": -2, "NOR": 0, "RV": -3}, rel=1e-4)


def test_nothing_is_asked_where_the_truth_is_borderline() -> None:
    truth = torch.tensor([[-0.9, 0.9, 1.0, -1.0, torch.inf]])
    assert hinge(torch.full((1, 5), 3.0), truth).tolist() == [[0, 0, 0, 4, 0]]
    assert hinge(torch.full((1, 5), -0.5), truth).tolist() == [[0, 0, 1.5, 0.5, 0]]


def test_indexed_criteria_drop_out_where_the_body_surface_is_unknown() -> None:
    """DCM of a small LV depends on its index alone: EF and wall of a dilated heart are the same."""
    prediction, batch = stacks(HEARTS[0][0], 6.0, 1.5, 20, bsa=0.2)
    smaller = labels_of({"ED": 12.0, "ES": 10.0}, 6.0, 1.5, 20)
    known = total("disease", segmented_as(prediction, smaller), batch)[0]
    unknown = total("disease", segmented_as(prediction, smaller), batch._replace(bsa_m2=torch.tensor([math.nan])))[0]
    assert known > unknown >= 0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("volume", {"slices": 0.0, "stack": 0.0, "ejection": 0.0}), ("volume", {"stack": -1.0}),
        ("disease", {"ef_margin": 0.0}), ("disease", {"margin": 0}),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"losses.{name}"):
        registry.build("modeling.losses", name, options, f"losses.{name}")
