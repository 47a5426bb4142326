"""What the log says of held-out hearts while a run trains."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from utils.report.drawing.preview import dice_of_groups


def test_decoded_hearts_are_scored_by_group_and_the_worst_is_named_and_unlabelled_slices_never_count() -> None:
    truth = torch.zeros(3, 1, 2, 8, 8, dtype=torch.long)
    truth[..., :2, :], truth[..., 2:4, :], truth[..., 4:6, :] = 1, 2, 3
    found = truth.numpy().copy()
    found[1, ..., :2, :] = 0  # the RV of the second is lost
    found[2] = 0  # the third has no label, and no group
    labelled = torch.tensor([True, True, False])[:, None, None].expand(-1, 1, 2)
    batch: Any = SimpleNamespace(key_labels=lambda: (truth, labelled))
    values = dice_of_groups(found, batch, ["NOR", "DCM", ""])
    assert values["val_dice_decoded_NOR"] == 1.0
    assert values["val_dice_decoded_DCM"] == values["val_dice_decoded_worst"] == pytest.approx(2 / 3)
    assert values["val_dice_decoded"] == pytest.approx(np.mean([2 / 3, 1, 1]), abs=0.01)  # RV: 2 of 3 rows found
    assert set(values) == {f"val_dice_decoded{name}" for name in ("", "_NOR", "_DCM", "_worst")}
