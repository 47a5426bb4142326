"""Frames, slices or stacks of one split on the model grid, each a pure function of (seed, epoch, sample).

Axes: S side of the model grid, D slices, T phases of the cardiac cycle.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from torch.utils.data import Dataset

from data.loading.augment import AugmentConfig
from data.loading.augment import augment as augmented
from data.preprocess import MODES, Geometry, apply_mask, model_field, model_spacing, plan, resize, resized, to_grid
from data.shards.reader import ShardReader, SliceSample
from data.shards.samples import SampleEntry
from data.window import real_values
from utils.clinical import body_surface_m2
from utils.seeding import stable_seed

UNITS = ("frame", "slice", "stack")


class Sample(NamedTuple):
    """One sample on the model grid.

    Args:
        arrays: the arrays of `Batch` without the axis B.
        sample_seed: seed of the random numbers of this sample.
        key: name of the sample.
    """

    arrays: dict[str, np.ndarray]
    sample_seed: int
    key: str


class Tokens(Protocol):
    """Precomputed tokens of samples, see data/loading/token_cache.py.

    Attributes:
        variants: number of stored epochs.
    """

    variants: int

    def __call__(self, variant: int, index: int) -> np.ndarray:
        """Return the tokens of a sample, (frames, K) int64."""


class CineDataset(Dataset[Sample]):
    """Frames, slices or stacks of one split on the model grid.

    Args:
        folder: folder of shards with manifest.json, as a local path or URL (data/shards/remote.py); or an open
            reader.
        split: train, val or test.
        unit: `frame` (one phase of one slice), `slice` (one slice with its phases) or `stack` (all slices of a
            patient, at ED, ES and `phases` - 2 other phases).
        image_size: S.
        geometry: `crop` or `fit`, see data/preprocess.py.
        phases: number of phases of a sample. Slices: evenly spaced from a random first phase, seeded by (seed, epoch,
            key); a shorter cine repeats phases; None for all. Stacks: including ED and ES; None for these two.
        max_phases: if given, T of a batch is random from `phases` to `max_phases` (see loader.py), and the phases of
            each sample are, at random, evenly spaced or successive.
        seed: seed of the run.
        key_frames: take ED, ES and `phases` - 2 evenly spaced phases, in the order of the cycle; always for stacks.
        augment: augmentation, seeded by (seed, epoch, key); for the training split only.
        cache_dir: folder for downloaded shards.
    Attributes:
        tokens: precomputed tokens to add to the samples; if set, epoch e repeats epoch e % tokens.variants.
    Raises:
        ValueError: for an option, which is named, that is invalid.
    """

    tokens: Tokens | None = None

    def __init__(
        self,
        folder: str | Path | ShardReader,
        split: str,
        unit: str,
        image_size: int,
        geometry: str,
        phases: int | None = None,
        seed: int = 0,
        key_frames: bool = False,
        augment: AugmentConfig | None = None,
        cache_dir: str | None = None,
        max_phases: int | None = None,
    ) -> None:
        _check_options(unit, image_size, geometry, phases, key_frames, max_phases)
        self.reader = folder if isinstance(folder, ShardReader) else ShardReader(folder, split, cache_dir)
        self.unit, self.image_size, self.geometry, self.phases, self.seed = unit, image_size, geometry, phases, seed
        self.has_key_frames, self.augment = key_frames or unit == "stack", augment or AugmentConfig()
        self.max_phases = max_phases
        self._stacks = list(self.reader.patients().values())
        sizes = {
            "frame": [entry.phases for entry in self.reader.samples],
            "slice": [1] * len(self.reader.samples),
            "stack": [1] * len(self._stacks),
        }
        self._ends = np.cumsum(sizes[unit], dtype=np.int64)
        self._computed_es: dict[int, int] = {}  # index of the first slice -> ES computed from the images

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def drawn_phases(self) -> tuple[int, int] | None:
        """Smallest and largest number of phases of a batch; None if it is not random."""
        return None if self.max_phases is None or self.phases is None else (self.phases, self.max_phases)

    @property
    def sample_bytes(self) -> int:
        """Size of a large sample in bytes: float32 images and uint8 masks, of 40 phases and 20 slices if not set."""
        phases = self.max_phases or self.phases
        slices = 20 if self.unit == "stack" else 1
        frames = {"frame": 1, "slice": phases or 40, "stack": (phases or 2) * slices}[self.unit]
        return (frames * 5 + slices) * self.image_size**2

    def __getitem__(self, where: tuple[int, ...]) -> Sample:
        """Return the sample at (epoch, index), or at (epoch, index, T)."""
        epoch, index, *drawn_count = where
        count = drawn_count[0] if drawn_count else self.phases
        drawn = epoch if self.tokens is None else epoch % self.tokens.variants
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} was requested, but the split has {len(self)} samples")
        at = int(np.searchsorted(self._ends, index, side="right"))
        slices = self._stacks[at] if self.unit == "stack" else [at]
        entry = self.reader.samples[slices[0]]
        key = entry.patient if self.unit == "stack" else entry.key
        if self.unit == "frame":
            phase = index - (int(self._ends[at - 1]) if at else 0)
            times, places = np.array([phase]), np.full(2, -1, np.int64)
            key = f"{key}_t{phase:02d}"
        else:
            times, places = self._choose(slices, drawn, count)
        geometry = plan(entry.native_hw, self.image_size, self.geometry, entry.info["center"])
        read = [self.reader.read(i, times) for i in slices]
        arrays = on_grid(read, times, geometry, whole=self.augment.enabled)
        arrays["key_frames"] = places
        if self.augment.enabled:
            arrays = augmented(arrays, self.augment, stable_seed(self.seed, drawn, key), entry.phases, geometry)
        if self.tokens is not None:
            arrays["tokens"] = self.tokens(drawn, index).reshape(len(slices), len(times), -1)  # (D, T, K)
        return Sample(arrays, stable_seed(self.seed, epoch, key), key)

    def frames_of(self, index: int) -> int:
        """Return D * T, the number of frames of the sample at `index`; it is equal in all epochs."""
        if self.unit == "frame":
            return 1
        if self.unit == "stack":
            return (self.phases or 2) * len(self._stacks[index])
        return self.phases or self.reader.samples[index].phases

    def draws(self) -> bool:
        """Return whether samples differ between epochs."""
        few = {"frame": False, "slice": self.phases is not None, "stack": (self.phases or 2) > 2}
        return self.augment.enabled or self.drawn_phases is not None or few[self.unit]

    def _choose(self, slices: list[int], epoch: int, count: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the phases (T,) of a sample, and the positions (2,) of ED and ES among them, -1 without key frames."""
        entry = self.reader.samples[slices[0]]
        if not self.has_key_frames:
            return self._times(entry, epoch, count), np.full(2, -1, np.int64)
        keys = self.key_phases(slices)
        if self.unit == "slice" and count is None:
            return np.arange(entry.phases), keys
        others = (count or 2) - 2
        times = np.sort(np.concatenate([keys, self._times(entry, epoch, others)]))
        return times, np.searchsorted(times, keys).astype(np.int64)  # the first position of a repeated phase

    def _times(self, entry: SampleEntry, epoch: int, count: int | None) -> np.ndarray:
        """Return `count` phases from a random start, evenly spaced or successive; all phases for None."""
        if count is None:
            return np.arange(entry.phases)
        start = stable_seed(self.seed, epoch, entry.key, "phase offset") / 2**63 * entry.phases
        stride = entry.phases / max(count, 1)
        if self.max_phases is not None and stable_seed(self.seed, epoch, entry.key, "run") % 2:
            stride = min(stride, 1.0)
        steps = start + np.arange(count) * stride
        return np.floor(steps).astype(np.int64) % entry.phases

    def key_phases(self, slices: list[int]) -> np.ndarray:
        """Return the phases of ED and ES; if unknown, phase 0 and the phase that differs most from ED.

        Args:
            slices: indices of samples of one patient in the reader.
        Returns:
            (2,) int64.
        """
        info = self.reader.samples[slices[0]].info
        ed = 0 if info["ed"] is None else info["ed"]
        es = info["es"]
        if es is None and slices[0] not in self._computed_es:
            cines = (real_values(self.reader.read(i).cine, info["slope"], info["intercept"]) for i in slices)
            self._computed_es[slices[0]] = most_unlike(cines, ed)
        return np.array([ed, self._computed_es[slices[0]] if es is None else es], np.int64)


def most_unlike(cines: Iterable[np.ndarray], phase: int) -> int:
    """Return the phase with the largest mean absolute difference from `phase`.

    Args:
        cines: slices of one patient, each (T, H, W) real values.
        phase: phase to compare with.
    Returns:
        Zero-based phase.
    """
    total: np.ndarray | float = 0.0
    for cine in cines:
        frames = cine.astype(np.float32)  # unsigned integers would wrap around
        total = total + np.abs(frames - frames[phase]).mean(axis=(1, 2))
    return int(np.argmax(total))


def on_grid(
    slices: list[SliceSample], times: np.ndarray, geometry: Geometry, whole: bool = False
) -> dict[str, np.ndarray]:
    """Bring native slices to the model grid, or to the whole resized image for the augmentation.

    Args:
        slices: D slices of one patient, read at `times`.
        times: (T,) zero-based phases.
        geometry: geometry of these slices.
        whole: False for the model grid, S x S; True for the whole resized image, h x w.
    Returns:
        The arrays of `Batch` without the axis B and without `key_frames`; with h x w instead of S x S if `whole`.
    """
    entry, depth = slices[0].entry, len(slices)
    frames = slices[0].cine[None] if depth == 1 else np.stack([part.cine for part in slices])
    real = real_values(frames, entry.info["slope"], entry.info["intercept"])
    image = (resized if whole else to_grid)(real, entry.info["window"], geometry)  # (D, T, S, S)
    field = np.ones(geometry.resized_hw, bool) if whole else model_field(geometry)
    mask = np.zeros(image.shape, np.uint8)
    for d, part in enumerate(slices):
        for phase, labels in part.masks.items():
            mask[d, times == phase] = resize(labels, field.shape, 0) if whole else apply_mask(labels, geometry)
    positions = [(part.entry.slice + 0.5) / part.entry.slices for part in slices]
    return {
        "image": image[:, :, None],  # (D, T, 1, S, S)
        "mask": mask,  # (D, T, S, S)
        "has_label": np.array([[time in part.masks for time in times] for part in slices]),  # (D, T)
        "field": np.repeat(field[None], depth, axis=0),  # (D, S, S)
        "slice_position": np.array(positions, np.float32),  # (D,)
        "phase": (times / entry.phases).astype(np.float32),  # (T,)
        "spacing_mm": np.array(model_spacing(entry.info["spacing_mm"], geometry), np.float32),  # (3,)
        "bsa_m2": np.array(body_surface_m2(entry.info["height_cm"], entry.info["weight_kg"]), np.float32),  # ()
        "patient": np.array(stable_seed("patient", entry.patient)),
    }


def _check_options(
    unit: str, image_size: int, geometry: str, phases: int | None, key_frames: bool, max_phases: int | None
) -> None:
    if unit not in UNITS:
        raise ValueError(f"dataset unit is {unit!r}, expected one of {', '.join(UNITS)}")
    if geometry not in MODES:
        raise ValueError(f"dataset geometry is {geometry!r}, expected one of {', '.join(MODES)}")
    if image_size < 1 or (phases is not None and phases < 1):
        raise ValueError(f"image_size is {image_size} and phases {phases}, expected positive numbers")
    if key_frames and unit == "frame":
        raise ValueError("dataset.key_frames is true, but dataset.unit is 'frame'; set it to 'slice' or 'stack'")
    if (key_frames or unit == "stack") and phases is not None and phases < 2:
        raise ValueError(
            f"dataset.phases is {phases}, but the samples contain ED and ES; set it to 2 or more, or leave it out"
        )
    if max_phases is not None and (unit == "frame" or phases is None or max_phases < phases):
        raise ValueError(
            f"dataset.max_phases is {max_phases} with dataset.unit {unit!r} and dataset.phases {phases}, expected "
            "slices or stacks and phases up to max_phases; correct dataset.phases or leave max_phases out"
        )
