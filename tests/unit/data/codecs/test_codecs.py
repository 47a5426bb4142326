"""What every file of data/codecs promises the comparison."""

import os
import re
import subprocess
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from data.codecs._common import from_levels, to_levels
from tests.tiny import REPOSITORY
from utils.config.recipe import ConfigError
from utils.config.registry import build, names
from utils.metrics import psnr

PACKAGES = {"svt_av1": "av", "x265": "av", "jpeg2000": "imagecodecs", "jpegxl": "imagecodecs"}
LEAST_DB = {"svt_av1": 39, "x265": 41, "jpeg2000": 40, "jpegxl": 40}  # at the best setting of each ladder
ODD = (4, 37, 51)


def beating(phases: int = 8, height: int = 64, width: int = 72) -> np.ndarray:
    """A disk that shrinks and grows on a smooth background, with a little noise; (T, h, w) in [0, 1]."""
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot(rows - height / 2, columns - width / 2)
    radius = height / 4 * (1 + 0.3 * np.cos(2 * np.pi * np.arange(phases) / max(phases, 2)))
    disk = 1 / (1 + np.exp(distance - radius[:, None, None]))
    noise = np.random.default_rng(0).normal(0, 0.01, disk.shape)
    return np.clip(0.2 + 0.1 * np.sin(columns / 9) + 0.5 * disk + noise, 0, 1).astype(np.float32)


@pytest.fixture(params=names("data.codecs"))
def name(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(PACKAGES[request.param], reason="an optional extra")
    return str(request.param)


def coded(codec: Any, cine: np.ndarray, setting: float) -> tuple[int, np.ndarray]:
    """Bytes, and what comes out of them."""
    parts = codec.encode(cine, setting)
    assert all(isinstance(part, bytes) for part in parts)
    return sum(map(len, parts)), codec.decode(parts, cine.shape[1:])


def mean_psnr(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean([psnr(a, b) for a, b in zip(x, y, strict=True)]))


def test_every_codec_has_a_known_package() -> None:
    assert set(PACKAGES) == set(LEAST_DB) == set(names("data.codecs"))


def test_a_codec_describes_itself_and_has_a_ladder_for_a_curve(name: str) -> None:
    codec = build("data.codecs", name, {}, f"codecs.{name}")
    assert codec.title and codec.quality and len(codec.ladder) >= 4 and len(set(codec.ladder)) == len(codec.ladder)
    chosen = build("data.codecs", name, {"ladder": list(codec.ladder[:2])}, f"codecs.{name}")
    assert chosen.ladder == codec.ladder[:2]


@pytest.mark.parametrize("bits", [8, 10])
def test_the_bytes_decode_to_the_cine(name: str, bits: int) -> None:
    cine = beating()
    codec = build("data.codecs", name, {"bits": bits}, f"codecs.{name}")
    size, decoded = coded(codec, cine, codec.ladder[0])
    assert decoded.shape == cine.shape and decoded.dtype == np.float32
    assert decoded.min() >= 0 and decoded.max() <= 1
    assert mean_psnr(cine, decoded) > LEAST_DB[name]
    assert size < cine.size * 2


def test_more_bytes_give_no_worse_psnr_over_the_ladder(name: str) -> None:
    cine, codec = beating(), build("data.codecs", name, {}, f"codecs.{name}")
    points = [coded(codec, cine, setting) for setting in codec.ladder]
    sizes, quality = [size for size, _ in points], [mean_psnr(cine, decoded) for _, decoded in points]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 2 * sizes[-1]
    assert all(better > worse - 0.05 for better, worse in pairwise(quality))


@pytest.mark.parametrize("shape", [ODD, (1, 11, 13), (2, 20, 24), (3, 64, 65)])
def test_odd_and_small_sizes_and_few_phases_keep_their_shape(name: str, shape: tuple[int, int, int]) -> None:
    cine, codec = beating(*shape), build("data.codecs", name, {}, f"codecs.{name}")
    _, decoded = coded(codec, cine, codec.ladder[1])
    assert decoded.shape == shape and mean_psnr(cine, decoded) > 30


def test_narrow_frames_do_not_damage_the_memory_of_the_program(name: str) -> None:
    code = (
        "import numpy as np; from utils.config.registry import build\n"
        f"codec = build('data.codecs', {name!r}, {{}}, 'codec')\n"
        "for width in (20, 36, 40, 48, 64):\n"
        "    cine = np.random.default_rng(0).random((5, 32, width)).astype(np.float32)\n"
        "    assert codec.decode(codec.encode(cine, codec.ladder[1]), (32, width)).shape == cine.shape\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_phases_come_back_in_their_order(name: str) -> None:
    cine = beating(12) * np.linspace(0.3, 1, 12, dtype=np.float32)[:, None, None]
    codec = build("data.codecs", name, {}, f"codecs.{name}")
    _, decoded = coded(codec, cine, codec.ladder[0])
    np.testing.assert_allclose(decoded.mean((1, 2)), cine.mean((1, 2)), atol=0.005)


def test_the_same_cine_gives_the_same_bytes(name: str) -> None:
    cine, codec = beating(4), build("data.codecs", name, {}, f"codecs.{name}")
    assert codec.encode(cine, codec.ladder[2]) == codec.encode(cine, codec.ladder[2])


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="this system has no scheduling policies")
def test_an_encoder_does_not_change_the_priority_of_the_program(name: str) -> None:
    codec = build("data.codecs", name, {}, f"codecs.{name}")
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    codec.encode(beating(2), codec.ladder[-1])
    assert (os.sched_getscheduler(0), os.sched_getparam(0)) == before


def test_black_and_white_come_back_as_such(name: str) -> None:
    codec = build("data.codecs", name, {}, f"codecs.{name}")
    for value in (0.0, 1.0):
        _, decoded = coded(codec, np.full((3, 64, 64), value, np.float32), codec.ladder[0])
        assert abs(decoded - value).max() < 0.01


def test_a_missing_package_is_one_clear_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES[name], None)
    with pytest.raises(ValueError, match=rf"codec {name} needs .* pip install {PACKAGES[name]}"):
        build("data.codecs", name, {}, f"codecs.{name}")


def test_an_encoder_that_is_missing_in_the_package_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    av = pytest.importorskip("av", reason="an optional extra")

    def without(name: str, mode: str) -> None:
        raise ValueError(name)

    monkeypatch.setattr(av.codec, "Codec", without)
    with pytest.raises(ValueError, match=r"codec x265: this PyAV has no libx265; .*pip install -U 'av>=15.1'"):
        build("data.codecs", "x265", {}, "codecs.x265")


def test_a_wrong_setting_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"codecs\.{name}\.ladder"):
        build("data.codecs", name, {"ladder": [1000]}, f"codecs.{name}")
    with pytest.raises(ConfigError, match=rf"codecs\.{name}\.bits"):
        build("data.codecs", name, {"bits": 12}, f"codecs.{name}")


def test_an_encoder_writes_nothing_to_the_terminal(name: str) -> None:
    code = (
        "import numpy; from utils.config.registry import build; "
        f"codec = build('data.codecs', '{name}', {{}}, 'codec'); "
        "parts = codec.encode(numpy.zeros((3, 64, 64), 'float32'), codec.ladder[1]); codec.decode(parts, (64, 64))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "SVT_LOG"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == done.stderr == ""


def test_a_stream_holds_no_text_on_its_encoder(name: str) -> None:
    codec = build("data.codecs", name, {}, f"codecs.{name}")
    parts = codec.encode(beating(3), codec.ladder[-1])
    assert not re.search(rb"x265|http|SVT|Lavc", b"".join(parts))


@pytest.mark.parametrize(("bits", "kind"), [(8, np.uint8), (10, np.uint16)])
def test_levels_span_the_whole_range_and_are_off_by_half_a_level_at_most(bits: int, kind: type) -> None:
    values = np.linspace(0, 1, 5001, dtype=np.float32)
    levels = to_levels(values, bits)
    assert levels.dtype == kind and levels[0] == 0 and levels[-1] == 2**bits - 1
    assert abs(from_levels(levels, bits) - values).max() <= 0.5 / (2**bits - 1) + 1e-6
    assert to_levels(np.array([-0.2, 1.3]), bits).tolist() == [0, 2**bits - 1]


@pytest.mark.parametrize("side", [11, 15, 16, 20, 31])
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_small_constant_frame_comes_back(name: str, side: int, level: float) -> None:
    codec = build("data.codecs", name, {}, f"codecs.{name}")
    cine = np.full((2, side, side + 2), level, np.float32)
    assert np.abs(coded(codec, cine, codec.ladder[0])[1] - cine).max() < 0.02
