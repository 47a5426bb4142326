"""A file of a ladder with a wanted size: the step of the quantizer is corrected by the size of each file written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from modeling.ladder.quantizer import PER_OCTAVE, STEPS

HEAD_BYTES = 90  # of a file without affine, beside the tokens
BELOW, ABOVE = 0.04, 0.01  # tolerance of the size of a file
GOAL = 0.985  # of the wanted size, the middle of the tolerance
TRIALS = 6
STEPS_PER_OCTAVE = PER_OCTAVE / 0.85  # of the size: how much coarser the step is for half the bytes, about


def file_of_size(wanted: float, index: int, data: bytes, write: Callable[[int], bytes]) -> bytes | None:
    """Return the file whose size is nearest to the wanted one: 96 to 101 % of it if a step allows it.

    Args:
        wanted: size of the file in bytes.
        index: index of the step of a first file.
        data: the first file.
        write: index of the step -> file.

    Returns:
        The largest of the tried files that has at most 101 % of the size; None if no file is that small.
    """
    files = {index: data}
    while not any((1 - BELOW) * wanted <= len(file) <= (1 + ABOVE) * wanted for file in files.values()):
        following = _next({index: len(file) for index, file in files.items()}, wanted)
        if following is None or len(files) == TRIALS:
            break
        files[following] = write(following)
    return max((file for file in files.values() if len(file) <= (1 + ABOVE) * wanted), key=len, default=None)


def _next(sizes: Mapping[int, int], wanted: float) -> int | None:
    """The step to try next; None where no step is left between a file that is too large and one that fits.

    Args:
        sizes: index of the step -> bytes, of the files so far.
        wanted: size of the file in bytes.
    """
    goal = GOAL * wanted
    fits = min((index for index, size in sizes.items() if size <= (1 + ABOVE) * wanted), default=None)
    over = max((index for index, size in sizes.items() if size > (1 + ABOVE) * wanted), default=None)
    if fits is not None and over is not None:
        if fits - over < 2:
            return None
        share = math.log(sizes[over] / goal) / math.log(sizes[over] / sizes[fits])
        return over + min(max(round(share * (fits - over)), 1), fits - over - 1)
    known = fits if fits is not None else over
    assert known is not None
    away = round(STEPS_PER_OCTAVE * math.log2(sizes[known] / goal)) or (1 if fits is None else -1)
    following = min(max(known + away, 0), STEPS - 1)
    return None if following in sizes else following
