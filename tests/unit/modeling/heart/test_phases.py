"""The phases of ED and ES: as given, or computed from a cine."""

import pytest
import torch

from modeling.heart.phases import key_phases


def test_end_diastole_and_end_systole_are_where_the_segmented_lv_is_largest_and_smallest() -> None:
    x = torch.rand(2, 1, 8, 8, 1, 5)
    lv = torch.tensor([[3, 5, 4, 2, 4], [0, 0, 0, 0, 0]])
    ed, es = key_phases(x, None, None, lv)
    plain_ed, plain_es = key_phases(x, None, None)
    assert (int(ed[0]), int(es[0])) == (1, 3)
    assert (ed[1], es[1]) == (plain_ed[1], plain_es[1])  # no LV found: phase 0 and the phase most unlike it
    assert key_phases(x, 2, None, lv)[0].tolist() == [2, 2]


def test_a_key_frame_that_the_cine_does_not_have_is_refused_before_it_is_read() -> None:
    x = torch.rand(1, 1, 4, 1, 8, 8)
    for given in ((9, None), (None, 9), (-1, 2), (0, 4)):
        with pytest.raises(ValueError, match=r"expected phases 0 to 3 of this cine"):
            key_phases(x, *given)
