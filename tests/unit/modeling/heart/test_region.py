"""Laws of the heart's neighbourhood: margins are millimetres, as in evaluation."""

import numpy as np
import pytest
import torch

from modeling.heart.region import near
from tests.unit.modeling.losses.test_where_gradients_go import hearts
from utils.metrics import heart_region


@pytest.mark.parametrize("margin_mm", [3.0, 10.0])
def test_the_neighbourhood_of_a_loss_is_the_heart_region_of_evaluation(margin_mm: float) -> None:
    batch = hearts()
    spacing = torch.tensor([[2.0, 2.0, 10.0], [1.2, 1.7, 8.0]])
    batch = batch._replace(spacing_mm=spacing, finest_mm=1.2)
    mask = (batch.mask > 0).any(2)  # (B, D, H, W)
    result = near(mask, margin_mm, batch)
    for sample in range(2):
        native = mask[sample].permute(1, 2, 0).numpy()
        expected = heart_region([native], spacing[sample].tolist(), margin_mm)
        assert expected is not None and np.array_equal(result[sample].permute(1, 2, 0).numpy(), expected)


def test_a_finer_grid_has_the_same_neighbourhood_in_mm() -> None:
    batch = hearts()
    coarse, fine = torch.zeros(2, 1, 32, 32, dtype=torch.bool), torch.zeros(2, 1, 64, 64, dtype=torch.bool)
    coarse[:, :, 16, 16], fine[:, :, 32:34, 32:34] = True, True
    areas = []
    for mask, spacing in ((coarse, 2.0), (fine, 1.0)):
        scaled = batch._replace(spacing_mm=torch.full((2, 3), spacing), finest_mm=spacing)
        areas.append(float(near(mask, 12.0, scaled)[0].sum()) * spacing**2)
    assert areas[0] == pytest.approx(areas[1], rel=0.12)
