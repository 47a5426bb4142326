"""A changed file with a valid checksum is refused, or is the one file of another content; no crash, little memory.

`make soak` tries 2000 files and 1000 of a ladder, the usual run a tenth of them.
"""

import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from data.bitstream.container import MAGIC, pack, unpack
from data.bitstream.entropy import TokenTable
from data.bitstream.header import Header
from data.preprocess import plan
from tests.ladders import random_tokens
from tests.unit.data.bitstream import test_ladder as ladder
from utils.layout import FrameLayout, SequenceLayout, TokenLayout

FILES = int(os.environ.get("TITOK_MRI_SOAK", "200"))
LADDER_FILES = FILES // 2
TABLE = TokenTable(np.arange(50) ** 2)
MOST_MIB = 100


def make_file(seed: int) -> bytes:
    """A small file of any layout, with and without optional parts and absent tokens."""
    rng = np.random.default_rng(seed)
    layout: TokenLayout = SequenceLayout(32, 64000) if seed % 5 == 0 else FrameLayout(4, 50, seed % 3, 100 * (seed % 3))
    header = Header(
        slices=int(rng.integers(1, 4)), phases=int(rng.integers(1, 6)), layout=layout,
        geometry=plan((60, 72), 32, "crop" if seed % 2 else "fit", (20.0, 30.0)), window=(0.0, 500.0),
        spacing_mm=(1.5, 1.25, 8.0), affine=np.diag([1.5, 1.25, 8.0, 1.0]) if seed % 3 else np.eye(4),
        slope=1.0 if seed % 4 else 2.0, tokens_id=int(rng.integers(1 << 62)), pixels_id=seed,
        outside=None if seed % 2 else 7.5, time_step=0.0 if seed % 3 else 40.0, time_unit=16 * (seed % 3 == 0),
    )  # fmt: skip
    parts = {}
    for field in layout.fields(header.slices, header.phases):
        values = rng.integers(0, field.size, field.shape) if field.size else np.zeros(field.shape, int)
        parts[field.name] = np.where(rng.random(field.shape) < 0.2 * (seed % 7 == 0), -1, values)
    if seed % 2 and "frames" in parts:
        parts["frames"][:] = parts["frames"][:, :1]  # repeats, which the range coder takes
    return pack(layout.join(parts), header, TABLE if seed % 3 else None)


def mutated(data: bytes, seed: int) -> bytes:
    """Some bytes changed, cut, added or repeated, with the length and the checksum of the new file."""
    rng = np.random.default_rng(seed)
    start = len(MAGIC) + 5
    body = bytearray(data[start:-4])
    for _ in range(int(rng.integers(1, 4))):
        kind, place = int(rng.integers(5)), int(rng.integers(len(body) or 1))
        if kind == 0 and body:
            body[place] ^= 1 << int(rng.integers(8))
        elif kind == 1 and body:
            body[place] = int(rng.integers(256))
        elif kind == 2:
            del body[place:]
        elif kind == 3:
            body[place:place] = rng.bytes(int(rng.integers(1, 9)))
        else:
            body += rng.bytes(int(rng.integers(1, 5)))
    whole = MAGIC + struct.pack("<BI", 3, start + len(body) + 4) + bytes(body)
    return whole + struct.pack("<I", zlib.crc32(whole))


@pytest.mark.parametrize("first", range(0, FILES, 50))
def test_a_changed_file_is_refused_or_is_the_one_file_of_its_content(first: int) -> None:
    read = 0
    for seed in range(first, first + 50):
        data = mutated(make_file(seed % 40), seed)
        tracemalloc.start()
        try:
            tokens, header = unpack(data, TABLE)
        except ValueError:
            continue
        finally:
            peak = tracemalloc.get_traced_memory()[1] / 2**20
            tracemalloc.stop()
            assert peak < MOST_MIB + 10 * len(data) / 2**20
        assert pack(tokens, header, TABLE) == data
        read += 1
    assert read < 50


def make_ladder_file(seed: int) -> bytes:
    """A small file of a ladder, with and without base tokens, region and empty bands."""
    rng = np.random.default_rng(seed)
    height, width, slices, phases = (int(rng.integers(1, most)) for most in (13, 13, 4, 5))
    base, region = 6 * (seed % 2), (2, 3, 4, 5) if seed % 3 == 0 else None
    rank, spread = int(rng.integers(1, phases + 1)), float(rng.choice([0.0, 0.3, 3.0]))
    tokens = random_tokens((height, width), slices, phases, rank, seed, base, region=region, spread=spread)
    changes = {"tokens_id": seed, "slope": 1.0 if seed % 4 else 2.0, "outside": None if seed % 2 else 7.5}
    return pack(tokens, ladder.make_header(tokens, base, **changes), ladder.coder())


def mutated_ladder(data: bytes, seed: int) -> bytes:
    """Changed anywhere; or in the volume part or the codes, with the checksums of these too."""
    if seed % 3 == 0:
        return mutated(data, seed)
    rng = np.random.default_rng(seed)
    head, volume, codes = ladder.taken_apart(data)
    target = bytearray(volume if seed % 3 == 1 else codes[-1])
    for _ in range(int(rng.integers(1, 3))):
        kind, place = int(rng.integers(4)), int(rng.integers(len(target) or 1))
        if kind == 0 and target:
            target[place] ^= 1 << int(rng.integers(8))
        elif kind == 1 and target:
            target[place] = int(rng.integers(256))
        elif kind == 2 and seed % 3 == 2:
            del target[place:]
        else:
            target += rng.bytes(int(rng.integers(1, 5)))
    if seed % 3 == 1:
        return ladder.put_together(head, bytes(target), codes)
    return ladder.put_together(head, volume, [*codes[:-1], bytes(target)])


@pytest.mark.parametrize("first", range(0, LADDER_FILES, 50))
def test_a_changed_file_of_a_ladder_is_refused_or_is_the_one_file_of_its_content(first: int) -> None:
    model, read = ladder.coder(), 0
    for seed in range(first, first + 50):
        data = mutated_ladder(make_ladder_file(seed % 40), seed)
        for damaged in (None, []):  # as a whole, and in part
            tracemalloc.start()
            try:
                tokens, header = unpack(data, model, damaged)
            except ValueError:
                continue
            finally:
                peak = tracemalloc.get_traced_memory()[1] / 2**20
                tracemalloc.stop()
                assert peak < MOST_MIB + 10 * len(data) / 2**20
            assert damaged is not None or pack(tokens, header, model) == data
            read += damaged is None
    assert read < 50


@pytest.mark.parametrize("seed", range(20))
def test_whole_files_are_read(seed: int) -> None:
    data = make_file(seed)
    assert pack(*unpack(data, TABLE if seed % 3 else None), TABLE if seed % 3 else None) == data


@pytest.mark.parametrize("seed", range(12))
def test_whole_files_of_a_ladder_are_read(seed: int) -> None:
    data = make_ladder_file(seed)
    assert pack(*unpack(data, ladder.coder()), ladder.coder()) == data


def test_a_few_bytes_cannot_claim_millions_of_tokens() -> None:
    header = make_file(1)
    start = len(MAGIC) + 5
    body = bytearray(header[start:-4])
    struct.pack_into("<HH", body, 3 + 12, 60000, 60000)  # slices and phases
    whole = MAGIC + struct.pack("<BI", 3, start + len(body) + 4) + bytes(body)
    with pytest.raises(ValueError, match="number of"):
        unpack(whole + struct.pack("<I", zlib.crc32(whole)))
