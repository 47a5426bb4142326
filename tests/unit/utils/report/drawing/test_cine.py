"""A cine is a moving picture of original, reconstruction and error, of bounded size."""

import io

import numpy as np
import pytest
from PIL import Image

from utils.report.drawing.cine import GAP, draw_cine
from utils.report.drawing.figures import ERROR_SCALE

PHASES, HEIGHT, WIDTH = 4, 12, 16


@pytest.fixture
def cine() -> np.ndarray:
    return np.random.default_rng(0).random((PHASES, HEIGHT, WIDTH)) / 2


def pixels(data: bytes, frame: int = 0) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    image.seek(frame)
    return np.asarray(image.convert("RGB")).astype(int)


def test_the_moving_picture_has_all_phases_without_loss_and_the_still_one_the_chosen_phase(cine: np.ndarray) -> None:
    drawn = draw_cine(cine, cine + 0.1, (1.0, 1.0), 2)
    assert Image.open(io.BytesIO(drawn.moving)).n_frames == PHASES and drawn.loss == ""
    np.testing.assert_array_equal(pixels(drawn.still), pixels(drawn.moving, 2))
    for phase in range(PHASES):
        shown = pixels(drawn.moving, phase)
        assert shown.shape == (HEIGHT, 3 * WIDTH + 2 * GAP, 3)
        np.testing.assert_array_equal(shown[:, :WIDTH, 0], np.rint(255 * cine[phase]))
        second = shown[:, WIDTH + GAP : 2 * WIDTH + GAP, 1]
        np.testing.assert_array_equal(second, np.rint(255 * (cine[phase] + 0.1)))


def test_equal_images_have_a_black_error_and_large_errors_one_bright_colour(cine: np.ndarray) -> None:
    same, far = (pixels(draw_cine(cine, cine + by, (1.0, 1.0), 0).still)[:, -WIDTH:] for by in (0, 2 * ERROR_SCALE))
    assert same.max() < 10 and far.min() > 150 and len(np.unique(far.reshape(-1, 3), axis=0)) == 1


def test_pixels_are_square(cine: np.ndarray) -> None:
    assert pixels(draw_cine(cine, cine, (2.0, 1.0), 0).still).shape == (2 * HEIGHT, 3 * WIDTH + 2 * GAP, 3)


@pytest.mark.parametrize("most_bytes", [3000, 1200])
def test_a_large_cine_is_stored_with_loss_and_then_smaller_and_says_so(cine: np.ndarray, most_bytes: int) -> None:
    large = np.repeat(np.repeat(cine, 3, axis=1), 3, axis=2)
    drawn = draw_cine(large, 1 - large, (1.0, 1.0), 0, most_bytes)
    assert 0 < len(drawn.moving) <= most_bytes and "with loss" in drawn.loss
    assert Image.open(io.BytesIO(drawn.moving)).n_frames == PHASES


def test_one_phase_stands_still(cine: np.ndarray) -> None:
    drawn = draw_cine(cine[:1], cine[:1], (1.0, 1.0), 0)
    assert drawn.moving == b"" and drawn.still.startswith(b"\x89PNG")
