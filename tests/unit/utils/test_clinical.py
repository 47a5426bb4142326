"""What a cardiologist measures, against figures worked out by hand."""

import math

import numpy as np
import pytest

from utils.clinical import (
    bland_altman,
    body_surface_m2,
    dice,
    ejection_fraction,
    function,
    hausdorff95,
    mean_surface_distance,
    overlaps,
    phase_error_percent,
    volume_ml,
)
from utils.report import heart


def square(side: int, low: int, high: int) -> np.ndarray:
    mask = np.zeros((side, side, 2), np.uint8)
    mask[low:high, low:high] = 1
    return mask


def test_dice_is_twice_the_overlap_over_both_sizes() -> None:
    assert dice(square(10, 0, 4), square(10, 2, 6)) == pytest.approx(2 * 4 / (16 + 16))


def test_two_empty_masks_do_not_apply_and_one_empty_mask_scores_nothing() -> None:
    empty, full = np.zeros((4, 5, 2)), np.ones((4, 5, 2))
    assert math.isnan(dice(empty, empty)) and math.isnan(hausdorff95(empty, empty, (1, 1, 8)))
    assert dice(empty, full) == dice(full, empty) == 0
    assert hausdorff95(empty, full, (1.5, 2.0, 8.0)) == pytest.approx(math.hypot(6, 10, 16))


def test_distances_are_in_millimetres() -> None:
    a, b = square(20, 5, 10), np.roll(square(20, 5, 10), 2, axis=0)
    assert hausdorff95(a, b, (1.5, 1.5, 8.0)) == pytest.approx(3.0)


def test_the_mean_surface_distance_counts_both_surfaces_and_is_never_above_the_95th_percentile() -> None:
    a, b = square(20, 5, 10), np.roll(square(20, 5, 10), 2, axis=0)
    found = mean_surface_distance(a, b, (1.5, 1.5, 8.0))
    assert found == mean_surface_distance(b, a, (1.5, 1.5, 8.0)) and 0 < found < 3.0
    assert mean_surface_distance(a, a, (1.5, 1.5, 8.0)) == 0


def test_distances_do_not_depend_on_the_empty_space_around_the_masks() -> None:
    random = np.random.default_rng(0)
    a, b = random.random((2, 6, 7, 3)) > 0.6
    far = [np.pad(mask, ((9, 4), (3, 8), (2, 0))) for mask in (a, b)]
    for measure in (hausdorff95, mean_surface_distance):
        assert measure(a, b, (1.5, 1.2, 8.0)) == pytest.approx(measure(*far, (1.5, 1.2, 8.0)))


def test_masks_of_other_shapes_are_refused() -> None:
    for measure in (dice, lambda a, b: hausdorff95(a, b, (1, 1)), lambda a, b: mean_surface_distance(a, b, (1, 1))):
        with pytest.raises(ValueError, match="shapes"):
            measure(np.ones((3, 4)), np.ones((4, 3)))


def test_volumes_scale_with_the_spacing() -> None:
    mask = 3 * square(10, 2, 7)
    assert volume_ml(mask, 3, (1.5, 1.5, 10.0)) == pytest.approx(50 * 22.5 / 1000)
    assert volume_ml(mask, 3, (3.0, 1.5, 10.0)) == pytest.approx(2 * 50 * 22.5 / 1000)
    assert volume_ml(mask, 1, (1.5, 1.5, 10.0)) == 0


def test_the_ejection_fraction_is_never_clipped_and_needs_a_diastolic_volume() -> None:
    assert ejection_fraction(150, 60) == pytest.approx(60)
    assert ejection_fraction(50, 75) == pytest.approx(-50)
    assert math.isnan(ejection_fraction(0, 0))


def test_function_reads_both_key_frames_and_leaves_unknown_ones_open() -> None:
    ed, es = 3 * square(10, 0, 8), 3 * square(10, 0, 4)
    ed[8:, :, 0] = 2
    found = function({"ED": ed, "ES": es}, (10.0, 10.0, 10.0))
    assert (found["lv_edv"], found["lv_esv"], found["lv_ef"]) == (128, 32, 75)
    assert found["lv_mass"] == pytest.approx(1.05 * 20)
    assert math.isnan(function({"ED": ed}, (1, 1, 1))["lv_ef"])


def test_overlaps_average_what_applies() -> None:
    truth, found = 3 * square(10, 0, 4), 3 * square(10, 2, 6)
    values = overlaps({"ED": truth}, {"ED": found})
    assert values["dice_LV_ED"] == values["dice_mean"] == 0.25
    assert math.isnan(values["dice_RV_ED"]) and "dice_LV_ES" not in values


def test_bland_altman_gives_bias_and_limits_over_known_pairs() -> None:
    found = bland_altman([100, 100, 100, math.nan], [101, 102, 103, 5])
    assert found == {"bias": 2, "low": pytest.approx(2 - 1.96), "high": pytest.approx(2 + 1.96), "n": 3}
    assert math.isnan(bland_altman([1.0], [2.0])["low"])


def test_a_phase_is_off_by_its_way_around_the_cycle() -> None:
    assert [phase_error_percent(found, 0, 10) for found in (0, 1, 9, 5)] == [0, 10, 10, 50]


def test_the_worst_group_has_the_lowest_dice_and_the_largest_error() -> None:
    groups = {
        "DCM": {"psnr": 20.0, "dice_mean": 0.9, "lv_ef_error": 9.0},
        "HCM": {"psnr": 19.0, "dice_mean": 0.0, "lv_ef_error": math.nan},
        "unknown": {"psnr": 1.0, "dice_mean": 0.1, "lv_ef_error": 90.0},
    }
    found = heart.worst_group(groups)
    assert {figure: entry["group"] for figure, entry in found.items()} == {
        "psnr": "HCM", "dice_mean": "HCM", "lv_ef_error": "DCM"
    }  # fmt: skip


def test_means_by_structure_and_group_are_those_of_the_rows() -> None:
    rows = []
    for group, value in (("DCM", 0.8), ("DCM", 0.6), (None, 0.4)):
        keys = [f"{kind}_{s}_{p}" for kind in ("dice", "hd95") for s in ("RV", "MYO", "LV") for p in ("ED", "ES")]
        row = {f"{key}{suffix}": value for key in (*keys, "dice_mean") for suffix in ("", "_original")}
        for key in heart.MEASURED:
            row |= {f"{key}_truth": 100.0, key: 100 * value, f"{key}_original": 100.0}
        rows.append({**row, "group": group, "psnr": 20.0, "psnr_heart": 18.0, "lv_ef_error": 5.0})
    found = heart.summarize(rows)
    assert found["dice"]["LV_ES"] == found["dice"]["MYO"] == found["dice"]["mean"] == pytest.approx(0.6)
    assert found["groups"]["DCM"] == {
        "n": 2, "psnr": 20.0, "psnr_heart": 18.0, "dice_mean": pytest.approx(0.7), "lv_ef_error": 5.0
    }  # fmt: skip
    assert found["groups"]["unknown"]["n"] == 1
    assert found["worst_group"]["dice_mean"] == {"group": "DCM", "value": pytest.approx(0.7)}
    assert found["bland_altman"]["lv_edv"]["bias"] == pytest.approx(-40)
    assert [len(table[1]) for table in heart.tables(found, rows)] == [6, 7, 2]
    assert heart.summarize([{"psnr": 20.0}]) == {}


def test_body_surface_is_mostellers() -> None:
    assert body_surface_m2(180, 80) == 2.0
    for height, weight in ((None, 80), (180, None), (0, 80)):
        assert math.isnan(body_surface_m2(height, weight))


def test_the_surface_distances_of_one_slice_are_those_of_its_contours() -> None:
    rows, columns = np.mgrid[:64, :64]
    outer, inner = (np.hypot(rows - 32, columns - 32)[..., None] <= radius for radius in (30, 20))
    spacing = (1.0, 1.0, 8.0)
    assert mean_surface_distance(outer, inner, spacing) == pytest.approx(10, abs=0.5)
    assert hausdorff95(outer, inner, spacing) == pytest.approx(10, abs=0.5)
    assert hausdorff95(outer, np.zeros_like(outer), spacing) == pytest.approx(64 * 2**0.5)
