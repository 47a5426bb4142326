"""A file of a ladder gives back its tokens on every machine, and has one form."""

import dataclasses
import hashlib
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.bitstream import container, ladder
from data.bitstream.coders import CODERS
from data.bitstream.container import pack, read_parts, unpack
from data.bitstream.header import Header
from data.bitstream.ladder import SymbolModel, code_slices
from data.bitstream.ladder_volume import read_volume
from data.preprocess import plan
from modeling.titok import TiTok
from scripts.files import codec
from tests.ladders import CODES, as_input, fixed_ladder, random_tokens, smooth_cine, trained_ladder
from tests.tiny import REPOSITORY
from utils.ladder.symbols import from_residual_ids
from utils.layout import LadderLayout

SIZE = (11, 14)
REGION = (5, 6, 4, 8)
START = len(container.MAGIC) + 5  # of the header
SLICE = struct.Struct("<IH")


def coder(seed: int = 0) -> SymbolModel:
    return fixed_ladder(seed).ladder.coder()


def make_header(tokens: np.ndarray, base: int = 0, **changes: Any) -> Header:
    height, width, phases, _ = tokens[0, :4].tolist()
    header = Header(
        slices=len(tokens), phases=phases, layout=LadderLayout(base, CODES if base else 1),
        geometry=plan((height, width), max(height, width), "fit"), window=(0.0, 523.25), spacing_mm=(1.5, 1.25, 8.0),
        affine=np.diag([1.5, 1.25, 8.0, 1.0]),
    )  # fmt: skip
    return dataclasses.replace(header, **changes)


def make_file(size: tuple[int, int] = SIZE, **options: Any) -> tuple[np.ndarray, bytes]:
    tokens = random_tokens(size, **options)
    return tokens, pack(tokens, make_header(tokens, options.get("base", 0)), coder())


def sealed(body: bytes) -> bytes:
    """A file with the length and the checksum of its body, all bytes but the last four."""
    body = body[: START - 4] + struct.pack("<I", len(body) + 4) + body[START:]
    return body + struct.pack("<I", zlib.crc32(body))


def taken_apart(data: bytes) -> tuple[bytes, bytes, list[bytes]]:
    """Everything before the payload, the volume part, and the codes of the slices."""
    parts = read_parts(data)
    payload, slices = parts.payload.data, parts.header.slices
    _, start = read_volume(parts.header.layout, payload, parts.header.phases)
    lengths = [SLICE.unpack_from(payload, start + z * SLICE.size)[0] for z in range(slices)]
    ends = start + slices * SLICE.size + np.cumsum(lengths)
    codes = [payload[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    return data[: parts.head_bytes], payload[:start], codes


def put_together(head: bytes, volume: bytes, codes: list[bytes], table: list[bytes] | None = None) -> bytes:
    """A file of such parts, with right checksums; `table` are the codes of which the table tells."""
    volume = volume[:-4] + struct.pack("<I", zlib.crc32(volume[:-4]))
    rows = [SLICE.pack(len(code), zlib.crc32(code) & 0xFFFF) for code in table or codes]
    return sealed(head + volume + b"".join(rows) + b"".join(codes))


@pytest.mark.parametrize("region", [None, REGION])
@pytest.mark.parametrize("base", [0, 6])
@pytest.mark.parametrize(
    ("size", "slices", "phases", "rank"),
    [
        ((1, 1), 1, 1, 1),
        ((5, 3), 2, 1, 1),
        ((8, 8), 1, 2, 2),
        ((11, 14), 3, 5, 3),
        ((37, 53), 2, 4, 4),
        ((7, 40), 1, 9, 2),
    ],
)
def test_tokens_and_header_come_back(
    size: tuple[int, int], slices: int, phases: int, rank: int, base: int, region: tuple[int, ...] | None
) -> None:
    for seed, spread in enumerate((0.3, 500.0)):
        tokens = random_tokens(size, slices, phases, rank, seed, base, region=region, spread=spread, step=seed * 200)
        data = pack(tokens, make_header(tokens, base), coder())
        found, header = unpack(data, coder())
        assert found.dtype == np.int64 and header.layout == LadderLayout(base, CODES if base else 1)
        np.testing.assert_array_equal(found, tokens)
        assert pack(found, header, coder()) == data


def test_the_largest_symbols_come_back() -> None:
    tokens = random_tokens(SIZE)
    tokens[0, -1], tokens[1, -1], tokens[1, -2] = 2 * ((1 << 24) - 1) - 1, 2 * ((1 << 24) - 1), 3
    assert tokens[0, -1] == (1 << 25) - 3
    np.testing.assert_array_equal(unpack(pack(tokens, make_header(tokens), coder()), coder())[0], tokens)


def test_a_volume_of_zeros_takes_few_bytes() -> None:
    tokens = random_tokens(SIZE, slices=4, phases=20, rank=20, spread=0.0)
    assert (tokens[:, 9:] == -1).all()
    data = pack(tokens, make_header(tokens), coder())
    np.testing.assert_array_equal(unpack(data, coder())[0], tokens)
    assert len(data) < START + 63 + 4 + 15 + 4 * SLICE.size + 4


def test_base_tokens_that_are_not_sent_come_back_as_such() -> None:
    tokens = random_tokens(SIZE, base=6)
    sent = len(pack(tokens, make_header(tokens, 6), coder()))
    tokens[:, 9:15] = -1
    data = pack(tokens, make_header(tokens, 6), coder())
    np.testing.assert_array_equal(unpack(data, coder())[0], tokens)
    assert sent - len(data) == 5  # 6 ids of 6 bits


GOLDEN = {
    (0, None): "c5a1638d4dcffb2f1af4782c1a52539e",
    (6, None): "47753e997bfeb54e8aca3a307a7c0159",
    (0, REGION): "61f2d8a28b3d10382f481cd6da7dc2ac",
}


@pytest.mark.parametrize(("base", "region"), GOLDEN)
def test_a_file_has_the_bytes_that_it_has_always_had(base: int, region: tuple[int, ...] | None) -> None:
    """Files of users depend on them: if this test fails, the version of the file must change."""
    _, data = make_file(slices=3, base=base, region=region, seed=7)
    assert hashlib.sha256(data).hexdigest()[:32] == GOLDEN[base, region]


SCRIPT = """
import hashlib, sys
import numpy as np
import torch
from data.bitstream.container import pack, unpack
from tests.ladders import fixed_ladder
torch.set_num_threads(int(sys.argv[1]))
coder, data = fixed_ladder().ladder.coder(), open(sys.argv[2], "rb").read()
tokens, header = unpack(data, coder)
np.save(sys.argv[3], tokens)
assert torch.get_num_threads() == int(sys.argv[1])
print(hashlib.sha256(pack(tokens, header, coder)).hexdigest())
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_another_process_with_one_or_two_threads_reads_the_tokens_and_writes_the_same_bytes(
    tmp_path: Path, threads: int
) -> None:
    tokens, data = make_file((48, 64), slices=2)
    (tmp_path / "cine.tmri").write_bytes(data)
    command = [sys.executable, "-c", SCRIPT, str(threads), str(tmp_path / "cine.tmri"), str(tmp_path / "tokens.npy")]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "KMP_BLOCKTIME": "0"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "tokens.npy"), tokens)
    assert done.stdout.strip() == hashlib.sha256(data).hexdigest()


def test_each_slice_has_the_code_that_it_has_alone() -> None:
    tokens, data = make_file((19, 26), slices=4)
    _, volume, codes = taken_apart(data)
    read, _ = read_volume(read_parts(data).header.layout, volume, 4)
    symbols = from_residual_ids(read.layout.split(tokens, 4, 4)["residual"], read.layout.height, read.layout.width)
    assert code_slices(read, symbols, coder()) == codes and len(set(codes)) == 4
    for z in range(4):
        alone = [[band[z : z + 1] for band in level] for level in symbols]
        assert code_slices(read, alone, coder()) == codes[z : z + 1]


def test_the_budget_counts_every_bit_of_the_payload() -> None:
    for base, region in GOLDEN:
        _, data = make_file(slices=3, base=base, region=region)
        parts = read_parts(data)
        counted = CODERS[parts.header.layout.name].budget(parts.payload, parts.header)
        assert sum(counted.values()) == 8 * len(parts.payload.data)
        assert counted["table of slices"] == 8 * 3 * SLICE.size
        assert counted["slices"] == 8 * sum(map(len, taken_apart(data)[2]))


def test_a_trained_model_makes_a_smaller_file_than_another() -> None:
    tokens = trained_ladder().encode(as_input(smooth_cine(2, 5, 37, 53)), step=0.1)[0].numpy()
    sizes = [
        len(pack(tokens, make_header(tokens), model.ladder.coder())) for model in (trained_ladder(), fixed_ladder())
    ]
    assert sizes[0] < 0.8 * sizes[1]


def test_the_context_model_is_needed() -> None:
    tokens, data = make_file()
    for call in (lambda: unpack(data), lambda: pack(tokens, make_header(tokens))):
        with pytest.raises(ValueError, match="give the context model of the ladder that wrote it"):
            call()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_file_of_another_model_is_refused(seed: int) -> None:
    tokens, other = random_tokens(SIZE), fixed_ladder(seed)
    header = make_header(tokens, **codec.identity_of(fixed_ladder())._asdict())
    data = pack(tokens, header, coder())
    np.testing.assert_array_equal(codec.read_tokens(fixed_ladder(), data)[0], tokens)
    for damaged in (None, []):
        with pytest.raises(ValueError, match=rf"written by the model {header.tokens_id:016x}, but this model is"):
            codec.read_tokens(other, data, damaged)
    with pytest.raises(ValueError, match=r"is not valid|not canonical"):  # even if nobody asks for the identity
        unpack(data, other.ladder.coder())


def test_the_decoder_of_another_refinement_is_only_noted() -> None:
    tokens = random_tokens(SIZE)
    data = pack(tokens, make_header(tokens, **codec.identity_of(fixed_ladder())._asdict()), coder())
    model = TiTok(fixed_ladder().config)
    model.load_state_dict(fixed_ladder().state_dict())
    model.ladder.refinement.tail.bias.data += 1
    found, header = codec.read_tokens(model.eval(), data)
    np.testing.assert_array_equal(found, tokens)
    assert "another decoder" in str(codec.decoder_note(model, header))
    assert codec.decoder_note(fixed_ladder(), header) is None


def test_the_payload_of_a_ladder_is_read_without_a_header_too() -> None:
    tokens = random_tokens(SIZE, base=6, region=REGION)
    layout = LadderLayout(6, CODES)
    data = ladder.write(layout, tokens, 4, coder())
    np.testing.assert_array_equal(ladder.read(layout, data, 2, 4, coder()), tokens)
