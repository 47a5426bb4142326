"""From shards to batches: seeded, split over ranks and workers, resumable without history.

The stream is one endless line of samples. Position p holds sample perm(seed, epoch)[p % N] of epoch p // N; step s
of a run takes the positions s * G .. s * G + G - 1 of its global batch, and rank r of R those with i % R == r. So
one rank sees what many see together, and a resumed run needs to know its step alone.

Axes: B batch, S side of the model grid, D slices, T phases of the cardiac cycle, N samples of the split.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from data.loading.dataset import CineDataset, Sample
from utils.seeding import stable_seed
from utils.types import Batch

BY_SLICE = ("image", "mask", "has_label", "field", "slice_position", "tokens")  # arrays whose first axis is D
PADDING = {"slice_position": 0.5, "tokens": -1}  # 0 elsewhere


def collate(samples: list[Sample]) -> Batch:
    """Put samples together to a batch; those of fewer slices are padded at the end along D.

    Raises:
        ValueError: when they differ in the number of phases.
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
    """One of a sample's arrays with `depth` slices: no image, no label and no field in those that are added."""
    if name not in BY_SLICE or len(array) == depth:
        return array
    added = np.full((depth - len(array), *array.shape[1:]), PADDING.get(name, 0), array.dtype)
    return np.concatenate([array, added])


class Stream(Sampler[list[tuple[int, ...]]]):
    """The endless line of (epoch, index), or (epoch, index, T), of one rank, in batches.

    Args:
        length: N, samples of the split.
        seed: of the run.
        global_batch_size: G, samples of all ranks together in a step.
        rank: r of this process.
        world_size: R.
        start_step: first step to give.
        phases: (least, most) of T, which is then drawn from (seed, update) for all samples of all ranks alike.
        steps_per_update: batches that make one update of the weights, and so have one T.
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
            raise ValueError("the split is empty; convert more patients, or with lower val_fraction and test_fraction")
        if global_batch_size < 1 or global_batch_size % world_size:
            raise ValueError(
                f"the global batch size is {global_batch_size}, expected a multiple of the {world_size} processes"
            )
        if not 0 <= rank < world_size or start_step < 0:
            raise ValueError(f"rank {rank} of {world_size} at step {start_step}: rank or step is out of range")
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
        """T of a step, alike on all ranks; nothing where it is not drawn."""
        if self.phases is None:
            return ()
        least, most = self.phases
        return (least + stable_seed(self.seed, "phases", step // self.steps_per_update) % (most - least + 1),)

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
    steps_per_update: int = 1,
) -> DataLoader[Sample]:
    """An endless loader of this rank's share of each global batch, beginning at `start_step`.

    Args:
        dataset: the split to train on.
        global_batch_size: samples of all ranks together in a step, a multiple of `world_size`.
        rank: of this process.
        world_size: how many processes.
        workers: loading processes, 0 to load in this one.
        start_step: 0, or the step that a resumed run continues with.
        steps_per_update: batches that make one update of the weights.
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
    return DataLoader(
        dataset, batch_sampler=stream, num_workers=workers, collate_fn=collate, pin_memory=torch.cuda.is_available()
    )
