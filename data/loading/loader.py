"""Batches from shards: seeded, divided among ranks and workers, resumable from the step number alone.

The samples form one endless sequence. Position p is sample perm(seed, epoch)[p % N] of epoch p // N. Step s of a run
reads the positions s * G to s * G + G - 1 of its global batch; rank r of R reads the positions with i % R == r. So one
rank reads the same samples as many ranks together, and a resumed run needs only its step.

Axes: B batch, S side of the model grid, D slices, T phases of the cardiac cycle, N samples of the split.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import Sampler

from data.loading.dataset import CineDataset, Sample
from data.loading.processes import Loader
from utils.seeding import stable_seed
from utils.types import Batch

BY_SLICE = ("image", "mask", "has_label", "field", "slice_position", "tokens")  # arrays whose first axis is D
PADDING = {"slice_position": 0.5, "tokens": -1}  # 0 elsewhere


def collate(samples: list[Sample]) -> Batch:
    """Collate samples to a batch; samples of fewer slices are padded at the end along D.

    Args:
        samples: samples of one T.
    Returns:
        The batch.
    Raises:
        ValueError: when the samples differ in the number of phases.
    """
    counts = sorted({len(sample.arrays["phase"]) for sample in samples})
    if len(counts) > 1:
        raise ValueError(
            f"a batch holds cines of {counts[0]} to {counts[-1]} phases; set dataset.phases to one number for all, "
            "or use a batch of one"
        )
    depth = max(len(sample.arrays["slice_position"]) for sample in samples)
    arrays = {
        name: torch.from_numpy(np.stack([padded(name, sample.arrays[name], depth) for sample in samples]))
        for name in samples[0].arrays
    }
    seeds = torch.tensor([sample.sample_seed for sample in samples], dtype=torch.int64)
    finest = min(float(sample.arrays["spacing_mm"][:2].min()) for sample in samples)
    has_keys = all(int(sample.arrays["key_frames"].min()) >= 0 for sample in samples)
    return Batch(
        **arrays,
        sample_seed=seeds,
        key=[sample.key for sample in samples],
        has_key_frames=has_keys,
        finest_mm=finest,
    )


def padded(name: str, array: np.ndarray, depth: int) -> np.ndarray:
    """Pad an array of a sample to `depth` slices; added slices have no image, no label and no field.

    Args:
        name: name of the array in `Sample.arrays`.
        array: (D, ...) if `name` is in BY_SLICE; other arrays are returned unchanged.
        depth: D of the batch.
    Returns:
        (depth, ...) of the same type.
    """
    if name not in BY_SLICE or len(array) == depth:
        return array
    added = np.full((depth - len(array), *array.shape[1:]), PADDING.get(name, 0), array.dtype)
    return np.concatenate([array, added])


class Stream(Sampler[list[tuple[int, ...]]]):
    """The endless sequence of (epoch, index), or (epoch, index, T), of one rank, in batches.

    Args:
        length: N, number of samples of the split.
        seed: seed of the run.
        global_batch_size: G, samples of all ranks together in a step.
        rank: r, index of this process.
        world_size: R, number of processes.
        start_step: first step.
        phases: smallest and largest T; T is then random, seeded by (seed, update), and equal for all ranks.
        steps_per_update: number of batches per update of the weights; they have one T.
    Raises:
        ValueError: for an empty split, or a batch size, rank or step out of range.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        global_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        phases: tuple[int, int] | None = None,
        steps_per_update: int = 1,
    ) -> None:
        if length < 1:
            raise ValueError("the split is empty; convert more patients, or use lower val_fraction and test_fraction")
        if global_batch_size < 1 or global_batch_size % world_size:
            raise ValueError(
                f"a micro-batch (training.global_batch_size / gradient_accumulation_steps) has {global_batch_size} "
                f"samples, expected a multiple of the {world_size} processes"
            )
        if not 0 <= rank < world_size or start_step < 0:
            raise ValueError(f"rank is {rank} of {world_size} and start_step {start_step}: out of range")
        self.length, self.seed, self.global_batch_size = length, seed, global_batch_size
        self.rank, self.world_size, self.start_step = rank, world_size, start_step
        self.phases, self.steps_per_update = phases, steps_per_update

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        step = self.start_step
        while True:
            first = step * self.global_batch_size
            positions = range(first + self.rank, first + self.global_batch_size, self.world_size)
            drawn = self.drawn_phases(step)
            yield [(p // self.length, self._order(p // self.length, p), *drawn) for p in positions]
            step += 1

    def drawn_phases(self, step: int) -> tuple[int, ...]:
        """Return (T,) of a step, equal on all ranks; () if T is not random."""
        if self.phases is None:
            return ()
        least, most = self.phases
        return (least + stable_seed(self.seed, "phases", step // self.steps_per_update) % (most - least + 1),)

    def _order(self, epoch: int, position: int) -> int:
        return int(epoch_order(self.length, self.seed, epoch)[position % self.length])


@lru_cache(maxsize=4)
def epoch_order(length: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of the samples in an epoch.

    It is made from raw bits, which are equal in all versions of numpy; `permutation` is not.

    Args:
        length: N.
        seed: seed of the run.
        epoch: index of the epoch, from 0.
    Returns:
        (N,) indices of samples.
    """
    return np.argsort(np.random.PCG64(stable_seed(seed, "order", epoch)).random_raw(length), kind="stable")


def train_loader(
    dataset: CineDataset,
    global_batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    start_step: int = 0,
    steps_per_update: int = 1,
) -> Loader:
    """Return an endless loader of the samples of this rank in each global batch, from `start_step` on.

    Args:
        dataset: training split.
        global_batch_size: samples of all ranks together in a step, a multiple of `world_size`.
        rank: index of this process.
        world_size: number of processes.
        workers: number of loading processes; 0 loads in this process.
        start_step: 0, or the first step of a resumed run.
        steps_per_update: number of batches per update of the weights.
    Returns:
        Loader of batches.
    """
    stream = Stream(
        len(dataset),
        dataset.seed,
        global_batch_size,
        rank,
        world_size,
        start_step,
        dataset.drawn_phases,
        steps_per_update,
    )
    return Loader(
        dataset, collate, workers, dataset.sample_bytes * global_batch_size // world_size, batch_sampler=stream
    )
