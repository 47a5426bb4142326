"""From shards to batches: seeded, split over ranks and workers, resumable without history.

The stream is one endless line of samples. Position p holds sample perm(seed, epoch)[p % N] of epoch p // N; step s
of a run takes the positions s * G .. s * G + G - 1 of its global batch, and rank r of R those with i % R == r. So
one rank sees what many see together, and a resumed run needs to know its step alone.

Axes: B batch, S side of the model grid, D slices, T phases of the cardiac cycle, N samples of the split.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from data.augment import AugmentConfig
from data.augment import augment as augmented
from data.preprocess import MODES, apply_mask, model_field, model_spacing, plan, to_grid
from data.shards import SampleEntry, ShardReader, SliceSample
from utils.seeding import stable_seed
from utils.types import Batch

UNITS = ("frame", "slice")


class Sample(NamedTuple):
    """One sample on the model grid: the arrays of `Batch` without B (D = 1), its seed and its key."""

    arrays: dict[str, np.ndarray]
    sample_seed: int
    key: str


class CineDataset(Dataset[Sample]):
    """Frames or slices of one split on the model grid.

    Args:
        folder: shards with their manifest.json.
        split: train, val or test.
        unit: `frame` (one phase of one slice) or `slice` (one slice with its phases).
        image_size: S.
        geometry: `crop` or `fit`, see data/preprocess.py.
        phases: for slices, how many evenly spaced phases, starting at a phase drawn from (seed, epoch, key); a
            shorter cine repeats some; None takes all.
        seed: of the run.
        key_frames: for slices, take ED, ES and `phases - 2` evenly spaced others, in the order of the cycle.
        augment: changes to each sample, seeded by (seed, epoch, key); for the training split alone.
    Raises:
        ValueError: naming the option that cannot be used.
    """

    def __init__(
        self,
        folder: str,
        split: str,
        unit: str,
        image_size: int,
        geometry: str,
        phases: int | None = None,
        seed: int = 0,
        key_frames: bool = False,
        augment: AugmentConfig | None = None,
    ) -> None:
        if unit not in UNITS:
            raise ValueError(f"dataset unit is {unit!r}, expected one of {', '.join(UNITS)}")
        if geometry not in MODES:
            raise ValueError(f"dataset geometry is {geometry!r}, expected one of {', '.join(MODES)}")
        if image_size < 1 or (phases is not None and phases < 1):
            raise ValueError(f"image_size is {image_size} and phases {phases}, expected positive numbers")
        if key_frames and unit != "slice":
            raise ValueError(f"dataset.key_frames is true, but dataset.unit is {unit!r}; set it to 'slice'")
        if key_frames and phases is not None and phases < 2:
            raise ValueError(f"dataset.key_frames is true, but dataset.phases is {phases}; ED and ES need 2 or more")
        self.reader = ShardReader(folder, split)
        self.unit, self.image_size, self.geometry, self.phases, self.seed = unit, image_size, geometry, phases, seed
        self.key_frames, self.augment = key_frames, augment
        units = [entry.phases if unit == "frame" else 1 for entry in self.reader.samples]
        self._ends = np.cumsum(units, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, where: tuple[int, int]) -> Sample:
        """The sample at (epoch, index)."""
        epoch, index = where
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} asked for, but the split has {len(self)}")
        at = int(np.searchsorted(self._ends, index, side="right"))
        entry = self.reader.samples[at]
        if self.unit == "frame":
            phase = index - (int(self._ends[at - 1]) if at else 0)
            key = f"{entry.key}_t{phase:02d}"
            frame, mask = self.reader.read_frame(at, phase)
            masks = {} if mask is None else {phase: mask}
            arrays = self._on_grid(entry, frame[None], masks, np.array([phase]))
            arrays["key_frames"] = np.full(2, -1, np.int64)
        else:
            key = entry.key
            whole = self.reader.read(at)
            times, places = self._choose(whole, epoch)
            arrays = self._on_grid(entry, whole.cine[times], whole.masks, times)
            arrays["key_frames"] = places
        sample_seed = stable_seed(self.seed, epoch, key)
        if self.augment is not None and self.augment.enabled:
            arrays = augmented(arrays, self.augment, sample_seed, entry.phases)
        return Sample(arrays, sample_seed, key)

    def _choose(self, whole: SliceSample, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(T,) phase indices to take from a slice, and the places (2,) of ED and ES among them, -1 if not asked for."""
        if not self.key_frames:
            return self._times(whole.entry, epoch, self.phases), np.full(2, -1, np.int64)
        keys = key_phases(whole)
        if self.phases is None:
            return np.arange(whole.entry.phases), keys
        times = np.sort(np.concatenate([keys, self._times(whole.entry, epoch, self.phases - 2)]))
        return times, np.searchsorted(times, keys).astype(np.int64)  # the first place of a time that stands twice

    def _times(self, entry: SampleEntry, epoch: int, count: int | None) -> np.ndarray:
        """(count,) evenly spaced phase indices from a drawn start; all of them for None."""
        if count is None:
            return np.arange(entry.phases)
        start = stable_seed(self.seed, epoch, entry.key, "phase offset") / 2**63 * entry.phases
        steps = start + np.arange(count) * (entry.phases / max(count, 1))
        return np.floor(steps).astype(np.int64) % entry.phases

    def _on_grid(
        self, entry: SampleEntry, frames: np.ndarray, masks: dict[int, np.ndarray], times: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The arrays of a sample, from native frames (T, H, W), the masks by phase, and the phases (T,)."""
        info, size = entry.info, self.image_size
        geometry = plan(entry.native_hw, size, self.geometry, info["center"])
        image = to_grid(frames, info["window"], geometry)  # (T, S, S)
        mask = np.zeros((size, size, len(times)), np.uint8)
        for phase, labels in masks.items():
            mask[:, :, times == phase] = apply_mask(labels, geometry)[:, :, None]
        return {
            "image": image.transpose(1, 2, 0)[None, :, :, None],  # (1, S, S, 1, T)
            "mask": mask[:, :, None],  # (S, S, 1, T)
            "has_label": np.isin(times, list(masks))[None],  # (1, T)
            "field": model_field(geometry),  # (S, S)
            "slice_position": np.array([(entry.slice + 0.5) / entry.slices], np.float32),  # (1,)
            "phase": (times / entry.phases).astype(np.float32),  # (T,)
            "spacing_mm": np.array(model_spacing(info["spacing_mm"], geometry), np.float32),  # (3,)
        }


def key_phases(whole: SliceSample) -> np.ndarray:
    """(2,) int64 phases of ED and ES; where the case does not say, phase 0 and this slice's phase most unlike ED."""
    ed, es = whole.entry.info["ed"], whole.entry.info["es"]
    ed = 0 if ed is None else ed
    if es is None:
        cine = whole.cine.astype(np.float32)  # unsigned integers would wrap around
        es = int(np.abs(cine - cine[ed]).mean(axis=(1, 2)).argmax())
    return np.array([ed, es], np.int64)


def collate(samples: list[Sample]) -> Batch:
    """Stack samples to a batch.

    Raises:
        ValueError: when they differ in the number of phases.
    """
    counts = sorted({len(sample.arrays["phase"]) for sample in samples})
    if len(counts) > 1:
        raise ValueError(
            f"a batch holds cines of {counts[0]} to {counts[-1]} phases; set dataset.phases to one number for all, "
            "or use a batch of one"
        )
    names = samples[0].arrays
    arrays = {name: torch.from_numpy(np.stack([sample.arrays[name] for sample in samples])) for name in names}
    seeds = torch.tensor([sample.sample_seed for sample in samples], dtype=torch.int64)
    return Batch(**arrays, sample_seed=seeds, key=[sample.key for sample in samples])


class Stream(Sampler[list[tuple[int, int]]]):
    """The endless line of (epoch, index) of one rank, in batches.

    Args:
        length: N, samples of the split.
        seed: of the run.
        global_batch_size: G, samples of all ranks together in a step.
        rank: r of this process.
        world_size: R.
        start_step: first step to give.
    """

    def __init__(
        self, length: int, seed: int, global_batch_size: int, rank: int = 0, world_size: int = 1, start_step: int = 0
    ) -> None:
        if length < 1:
            raise ValueError("the split is empty; convert more patients, or with lower val_fraction and test_fraction")
        if global_batch_size < 1 or global_batch_size % world_size:
            raise ValueError(
                f"the global batch size is {global_batch_size}, expected a multiple of the {world_size} processes"
            )
        if not 0 <= rank < world_size or start_step < 0:
            raise ValueError(f"rank {rank} of {world_size} at step {start_step}: rank or step is out of range")
        self.length, self.seed, self.global_batch_size = length, seed, global_batch_size
        self.rank, self.world_size, self.start_step = rank, world_size, start_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = self.start_step
        while True:
            first = step * self.global_batch_size
            positions = range(first + self.rank, first + self.global_batch_size, self.world_size)
            yield [(p // self.length, self._order(p // self.length, p)) for p in positions]
            step += 1

    def _order(self, epoch: int, position: int) -> int:
        return int(epoch_order(self.length, self.seed, epoch)[position % self.length])


@lru_cache(maxsize=4)
def epoch_order(length: int, seed: int, epoch: int) -> np.ndarray:
    """(N,) the order of an epoch; from raw bits, whose meaning numpy never changes, unlike `permutation`."""
    return np.argsort(np.random.PCG64(stable_seed(seed, "order", epoch)).random_raw(length), kind="stable")


def train_loader(
    dataset: CineDataset,
    global_batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    start_step: int = 0,
) -> DataLoader[Sample]:
    """An endless loader of this rank's share of each global batch, beginning at `start_step`.

    Args:
        dataset: the split to train on.
        global_batch_size: samples of all ranks together in a step, a multiple of `world_size`.
        rank: of this process.
        world_size: how many processes.
        workers: loading processes, 0 to load in this one.
        start_step: 0, or the step that a resumed run continues with.
    """
    stream = Stream(len(dataset), dataset.seed, global_batch_size, rank, world_size, start_step)
    return DataLoader(
        dataset, batch_sampler=stream, num_workers=workers, collate_fn=collate, pin_memory=torch.cuda.is_available()
    )
