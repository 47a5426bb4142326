"""Tokens of a loader's samples, worked out once and kept: training from them does not run the encoder.

    FOLDER/tokens.json    what the tokens are of and by: see `description`
    FOLDER/tokens.npy     (N, F, K) unsigned integers: N variants of all F frames of the split, K tokens each

A sample is a pure function of (seed, epoch, sample), and so are its tokens. Variant v holds those of epoch v, with all
that is drawn in it: phases, roll, augmentation. A training from the cache repeats the draws of epochs 0 to N - 1 over
and over (flow times, noise and dropout go on), so for N epochs it is the training without it, to the bit.

Axes: D slices, T phases of the cardiac cycle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data.loading.dataset import CineDataset
from data.shards.manifest import NOTICE
from utils.files import atomic_dir, jsonable, read_json, write_json

SCHEMA_VERSION = 1


def description(
    dataset: CineDataset, weights: str, tokens: int, codes: int, variants: int, dtype: str
) -> dict[str, Any]:
    """What a cache must be of, to serve a training.

    Args:
        dataset: whose samples are encoded.
        weights: hash of all weights that tokens depend on.
        tokens: K.
        codes: size of the codebook.
        variants: N.
        dtype: the encoder computes in, `fp32` or `bf16`.
    """
    manifest = {name: dataset.reader.manifest[name][dataset.reader.split] for name in ("split", "shards")}
    drawn = {"seed": dataset.seed, "augment": asdict(dataset.augment)} if dataset.draws() else {}
    found = {
        "schema_version": SCHEMA_VERSION,
        "weights": weights,
        "shards": hashlib.blake2b(json.dumps(manifest, sort_keys=True).encode(), digest_size=16).hexdigest(),
        "split": dataset.reader.split,
        "unit": dataset.unit,
        "phases": dataset.phases,
        "key_frames": dataset.has_key_frames,
        "image_size": dataset.image_size,
        "geometry": dataset.geometry,
        **drawn,
        "num_latent_tokens": tokens,
        "codebook_size": codes,
        "variants": variants,
        "dtype": dtype,
    }
    plain: dict[str, Any] = jsonable(found)
    return plain


def first_frames(dataset: CineDataset) -> np.ndarray:
    """(samples + 1,) where each sample's frames begin among all frames of the split, and their number."""
    counts = [dataset.frames_of(index) for index in range(len(dataset))]
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


@contextmanager
def write_tokens(folder: Path, described: dict[str, Any], frames: int) -> Iterator[np.memmap]:
    """Yield the array (N, F, K) to fill; the folder appears whole when the block ends well, or not at all."""
    shape = (described["variants"], frames, described["num_latent_tokens"])
    dtype = np.uint16 if described["codebook_size"] <= 1 << 16 else np.uint32
    with atomic_dir(folder) as temporary:
        tokens = np.lib.format.open_memmap(temporary / "tokens.npy", "w+", dtype, shape)
        yield tokens
        tokens.flush()
        write_json(temporary / "tokens.json", {"notice": NOTICE, "frames": frames, **described})


class TokenCache:
    """The tokens of a dataset's samples.

    Args:
        folder: of scripts/pretokenize.py.
        dataset: that training reads.
        weights: hash of the weights that its tokens would depend on.
    Raises:
        FileNotFoundError: when the cache is not there.
        ValueError: when it is of other weights, data or settings, naming what differs, or damaged.
    """

    def __init__(self, folder: str | Path, dataset: CineDataset, weights: str) -> None:
        self.path = Path(folder) / "tokens.npy"
        if not (Path(folder) / "tokens.json").is_file():
            raise FileNotFoundError(f"{folder}: no tokens.json in it; make the cache with scripts/pretokenize.py")
        found = read_json(Path(folder) / "tokens.json")
        self.first = first_frames(dataset)
        try:
            self.variants = int(found["variants"])
            codes, self._shape = int(found["codebook_size"]), (self.variants, int(found["frames"]), -1)
            expected = description(dataset, weights, found["num_latent_tokens"], codes, self.variants, found["dtype"])
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{folder}: its tokens.json is damaged; make the cache again") from None
        self._check(found, expected, folder)
        self._tokens: np.ndarray | None = None
        tokens = self._open()
        if tokens.shape[:2] != (self.variants, self.first[-1]) or tokens.shape[2] != found["num_latent_tokens"]:
            raise ValueError(f"{self.path}: has shape {tokens.shape}, which tokens.json does not say; make it again")
        if int(tokens.max(initial=0)) >= codes:
            raise ValueError(f"{self.path}: holds ids beyond the codebook's {codes}; make the cache again")

    @staticmethod
    def _check(found: dict[str, Any], expected: dict[str, Any], folder: str | Path) -> None:
        kept = {key: value for key, value in found.items() if key not in ("notice", "frames")}
        differing = [key for key in {**kept, **expected} if kept.get(key) != expected.get(key)]
        if differing:
            named = ", ".join(f"{key} {kept.get(key)!r} instead of {expected.get(key)!r}" for key in differing)
            raise ValueError(
                f"dataset.tokens {folder}: was made for another training ({named}); run scripts/pretokenize.py with "
                "this recipe, or leave dataset.tokens out"
            )

    def __call__(self, variant: int, index: int) -> np.ndarray:
        """Tokens of a sample, (frames, K) int64, slice by slice and phase by phase."""
        return self._open()[variant, self.first[index] : self.first[index + 1]].astype(np.int64)

    def _open(self) -> np.ndarray:
        if self._tokens is None:
            try:
                self._tokens = np.load(self.path, mmap_mode="r", allow_pickle=False)
            except (ValueError, OSError, EOFError) as error:
                raise ValueError(f"{self.path}: cannot be read ({error}); make the cache again") from None
        return self._tokens

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tokens": None}  # each loading process opens it anew
