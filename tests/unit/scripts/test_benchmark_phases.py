"""The benchmark of phases: how much tokens depend on the number of phases beside a frame."""

import numpy as np
import pytest
import torch

from scripts.benchmarks.phases import measure
from tests.tiny import tiny_model


@pytest.mark.parametrize("looks_at_neighbours", [False, True])
def test_tokens_change_with_the_number_of_phases_only_where_the_phase_adapter_looks_at_others(
    looks_at_neighbours: bool,
) -> None:
    model = tiny_model("titok")
    if not looks_at_neighbours:
        torch.nn.init.zeros_(model.adapters.phase[0].proj.weight)
        torch.nn.init.zeros_(model.adapters.phase[0].proj.bias)
    x = torch.rand(1, 1, 32, 32, 2, 6, generator=torch.Generator().manual_seed(0))
    found = measure(model, x, np.ones((32, 32), bool))
    assert (found["changed_tokens"] > 0) == looks_at_neighbours
    assert (found["psnr_all"] != pytest.approx(found["psnr_half"], abs=1e-4)) == looks_at_neighbours
