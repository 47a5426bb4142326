"""The ablation trains the same recipe but for one loss, and its table says what each loss was worth."""

import csv
import io
from pathlib import Path

import pytest

from scripts import ablate

RECIPE = {"losses": {"flow": {"weight": 1.0}, "pixel": {}, "volume": {}}, "training": {"max_steps": 5}}


def test_each_arm_lacks_one_loss_and_is_the_recipe_in_all_else() -> None:
    arms = ablate.arms_of(RECIPE, None)
    assert list(arms) == ["without_flow", "without_pixel", "without_volume", "full"]
    assert arms["full"] == RECIPE
    for name, arm in arms.items():
        missing = set(RECIPE["losses"]) - set(arm["losses"])
        assert missing == ({name.removeprefix("without_")} if name != "full" else set())
        assert {**arm, "losses": None} == {**RECIPE, "losses": None}


def test_a_loss_that_is_not_there_and_a_recipe_of_one_loss_are_refused() -> None:
    with pytest.raises(ValueError, match="cycle is not among the recipe's losses: flow, pixel, volume"):
        ablate.arms_of(RECIPE, ["cycle"])
    with pytest.raises(ValueError, match=r"one loss or none .flow."):
        ablate.arms_of({"losses": {"flow": {}}}, None)


def test_the_table_has_the_full_recipe_first_and_the_signed_change_of_every_other_arm(tmp_path: Path) -> None:
    models = {
        "without_flow": {"mean": {"psnr": 19.0, "ssim": 0.5, "dice_mean": None}},
        "full": {"mean": {"psnr": 20.0, "ssim": 0.4, "dice_mean": 0.7}},
    }
    rows = ablate.table_of(models, {})
    assert [row["arm"] for row in rows] == ["full", "without_flow"]
    assert rows[1]["psnr_change"] == -1.0 and rows[1]["ssim_change"] == pytest.approx(0.1)
    assert rows[1]["dice_mean_change"] is None and "lv_ef_error" not in rows[0]
    text = ablate.text_of(rows)
    assert "19.00 (-1.00)" in text and "0.5000 (+0.1000)" in text and "–" in text
    assert next(csv.DictReader(io.StringIO(ablate.csv_of(rows))))["psnr"] == "20.0"
    ablate.draw(rows, tmp_path / "ablation.png", "caption")
    assert (tmp_path / "ablation.png").stat().st_size > 1000


def test_the_arms_of_a_ladder_are_found_by_their_names_without_the_rate() -> None:
    models = {f"{name}, 38 dB": {"mean": {"psnr": 38.0}} for name in ("without_refinement", "full")}
    rows = ablate.table_of(models, {"full, 38 dB": False})
    assert [(row["arm"], row["segmenter_taught_model"]) for row in rows] == [("full", 1), ("without_refinement", 0)]


def test_a_figure_by_a_segmenter_that_taught_the_arm_is_marked() -> None:
    models = {name: {"mean": {"psnr": 20.0, "dice_mean": 0.7}} for name in ("full", "without_flow")}
    rows = ablate.table_of(models, {"full": False, "without_flow": True})
    head, full, without, note = ablate.text_of(rows).splitlines()
    assert full.endswith("0.700 †") and "20.00 †" not in full and "†" not in head + without
    assert note.startswith("† measured by a segmenter that taught the arm")
    assert [row["segmenter_taught_model"] for row in csv.DictReader(io.StringIO(ablate.csv_of(rows)))] == ["1", "0"]
    assert "†" not in ablate.text_of(ablate.table_of(models, {"full": True, "without_flow": True}))


def test_a_failed_arm_stops_the_ablation_and_says_which() -> None:
    with pytest.raises(ValueError, match="the training of full ended with exit status 1"):
        ablate.run(["false"], "the training of full")
