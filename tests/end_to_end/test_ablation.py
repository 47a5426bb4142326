"""The ablation command: every loss off in turn, from recipes to one table."""

import json
import sys
from pathlib import Path

import pytest

from scripts import ablate
from tests.training import STAGE1, STAGE2, train


def test_a_loss_is_switched_off_and_a_second_run_trains_nothing_anew(
    tmp_path: Path, phantom_shards: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stage1.yaml").write_text(STAGE1)
    assert train(tmp_path, "stage1", phantom_shards, "stage1").returncode == 0
    recipe = tmp_path / "stage2.yaml"
    recipe.write_text(STAGE2)
    command = [
        f"config={recipe}",
        f"dataset.shards={phantom_shards}",
        f"experiment.init_weight={tmp_path / 'stage1'}",
        f"experiment.output_dir={tmp_path / 'ablation'}",
        *("--terms", "pixel", "--launch", sys.executable, "--split", "val"),
    ]
    ablate.main(command)
    found = json.loads((tmp_path / "ablation" / "ablation.json").read_text())
    assert [row["arm"] for row in found["arms"]] == ["full", "without_pixel"]
    assert len({row["psnr"] for row in found["arms"]}) == 2
    assert "arm 2 of 2: full" in capfd.readouterr().out
    ablate.main(command)
    assert "resumed; 1 rank(s)" in capfd.readouterr().out
    assert json.loads((tmp_path / "ablation" / "ablation.json").read_text()) == found
