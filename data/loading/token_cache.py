"""Precomputed and stored tokens of a dataset's samples: training with them does not run the encoder.

    FOLDER/tokens.json    weights, data and settings of the tokens, see `description`
    FOLDER/tokens.npy     (N, F, K) unsigned integers: N variants of all F frames of the split, K tokens each

A sample is a pure function of (seed, epoch, sample), and so are its tokens. Variant v holds the tokens of epoch v, with
its random phases, roll and augmentation. Training with the cache repeats the samples of epochs 0 to N - 1; flow times,
noise and dropout do not repeat. So the first N epochs are bit-identical to training without the cache.

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
    """Return all properties that a cache and a training must have in common.

    Args:
        dataset: dataset of the samples that are encoded.
        weights: hash of all weights that the tokens depend on.
        tokens: K, number of latent tokens.
        codes: size of the codebook.
        variants: N, number of stored epochs.
        dtype: precision of the encoder, `fp32` or `bf16`.
    Returns:
        Plain values for tokens.json.
    """
    manifest = {name: dataset.reader.manifest[name][dataset.reader.split] for name in ("split", "shards")}
    drawn = {"seed": dataset.seed, "augment": asdict(dataset.augment)} if dataset.draws() else {}
    properties = {
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
    plain: dict[str, Any] = jsonable(properties)
    return plain


def first_frames(dataset: CineDataset) -> np.ndarray:
    """Return the index of the first frame of each sample among all frames of the split.

    Args:
        dataset: the dataset.
    Returns:
        (samples + 1,) int64; the last value is the number of all frames.
    """
    counts = [dataset.frames_of(index) for index in range(len(dataset))]
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


@contextmanager
def write_tokens(folder: Path, described: dict[str, Any], frames: int) -> Iterator[np.memmap]:
    """Create the folder of a cache if the block ends without an error.

    Args:
        folder: folder of the cache.
        described: from `description`.
        frames: F, number of frames of the split.
    Yields:
        (N, F, K) unsigned integers on disk, to be filled.
    """
    shape = (described["variants"], frames, described["num_latent_tokens"])
    dtype = np.uint16 if described["codebook_size"] <= 1 << 16 else np.uint32
    with atomic_dir(folder) as temporary:
        tokens = np.lib.format.open_memmap(temporary / "tokens.npy", "w+", dtype, shape)
        yield tokens
        tokens.flush()
        write_json(temporary / "tokens.json", {"notice": NOTICE, "frames": frames, **described})


class TokenCache:
    """The stored tokens of a dataset's samples.

    Args:
        folder: folder of the cache, from scripts/pretokenize.py.
        dataset: dataset of the training.
        weights: hash of the weights that the tokens depend on.
    Raises:
        FileNotFoundError: when the cache does not exist.
        ValueError: when the cache is damaged, or its weights, data or settings differ from those of the training.
    """

    def __init__(self, folder: str | Path, dataset: CineDataset, weights: str) -> None:
        self.path = Path(folder) / "tokens.npy"
        if not (Path(folder) / "tokens.json").is_file():
            raise FileNotFoundError(f"{folder}: has no tokens.json; make the cache with scripts/pretokenize.py")
        stored = read_json(Path(folder) / "tokens.json")
        self.first = first_frames(dataset)
        try:
            self.variants = int(stored["variants"])
            codes, self._shape = int(stored["codebook_size"]), (self.variants, int(stored["frames"]), -1)
            expected = description(dataset, weights, stored["num_latent_tokens"], codes, self.variants, stored["dtype"])
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{folder}: its tokens.json is damaged; make the cache again") from None
        self._check(stored, expected, folder)
        self._tokens: np.ndarray | None = None
        tokens = self._open()
        if tokens.shape[:2] != (self.variants, self.first[-1]) or tokens.shape[2] != stored["num_latent_tokens"]:
            raise ValueError(
                f"{self.path}: has shape {tokens.shape}, which differs from tokens.json; make the cache again"
            )
        if int(tokens.max(initial=0)) >= codes:
            raise ValueError(
                f"{self.path}: holds ids above {codes - 1}, the largest of the codebook; make the cache again"
            )

    @staticmethod
    def _check(stored: dict[str, Any], expected: dict[str, Any], folder: str | Path) -> None:
        kept = {key: value for key, value in stored.items() if key not in ("notice", "frames")}
        differing = [key for key in {**kept, **expected} if kept.get(key) != expected.get(key)]
        if differing:
            named = ", ".join(f"{key} {kept.get(key)!r} instead of {expected.get(key)!r}" for key in differing)
            raise ValueError(
                f"dataset.tokens {folder}: was made for another training ({named}); run scripts/pretokenize.py with "
                "this recipe, or leave dataset.tokens out"
            )

    def __call__(self, variant: int, index: int) -> np.ndarray:
        """Return the tokens of a sample, (frames, K) int64, slice by slice and phase by phase."""
        return self._open()[variant, self.first[index] : self.first[index + 1]].astype(np.int64)

    def _open(self) -> np.ndarray:
        if self._tokens is None:
            try:
                self._tokens = np.load(self.path, mmap_mode="r", allow_pickle=False)
            except (ValueError, OSError, EOFError) as error:
                raise ValueError(f"{self.path}: cannot be read ({error}); make the cache again") from None
        return self._tokens

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tokens": None}  # each loading process opens the file itself
