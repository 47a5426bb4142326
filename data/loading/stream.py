"""The train split as a stream, for cohorts larger than a disk: shards are read sequentially, without a local copy.

    shards of this process, in the order of the epoch ─► patients ─► samples ─► shuffle buffer ─► batches

The pipeline is that of webdataset; data/shards/streamed.py reads and checks the shards. A sample of (epoch, key) has
exactly the arrays of data/loading/loader.py. The order of the samples differs: it is a function of (seed, epoch, ranks,
workers).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import webdataset
from torch.utils.data import IterableDataset, get_worker_info

from data.loading.dataset import CineDataset, Sample
from data.loading.loader import Stream, collate, epoch_order, train_loader
from data.loading.processes import Loader
from data.shards import streamed
from data.shards.remote import checked_place, manifest_at
from utils.seeding import stable_seed

SHUFFLE_BUFFER = {"frame": 1000, "slice": 100, "stack": 10}  # samples, so that all units hold about 100 slices


class CineStream:
    """The samples of `CineDataset` as a stream; nothing is written to the disk.

    Args:
        folder: folder of shards with manifest.json, as a local path or URL (data/shards/remote.py).
        split: train, val or test.
        unit: `frame`, `slice` or `stack`.
        shuffle_buffer: number of samples in the buffer of each loading process; None for SHUFFLE_BUFFER of the unit.
        options: further options of `CineDataset`; `cache_dir` is not used.
    Raises:
        OSError: when the manifest is missing or cannot be downloaded.
        ValueError: for an invalid option, which is named, or an invalid manifest.
    """

    def __init__(
        self, folder: str | Path, split: str, unit: str, shuffle_buffer: int | None = None, **options: Any
    ) -> None:
        self.split, self.unit, self._options = split, unit, options
        like = self._over(streamed.Slices([]))  # checks the options
        self.seed = like.seed
        self.has_key_frames, self.drawn_phases = like.has_key_frames, like.drawn_phases
        self.sample_bytes = like.sample_bytes
        self.shuffle_buffer = shuffle_buffer or SHUFFLE_BUFFER[unit]
        self.place = checked_place(folder)
        manifest = manifest_at(self.place)
        self.shards, self.patients = manifest["shards"][split], set(manifest["split"][split])
        self._length = _count(manifest, split, unit, self.place)

    def __len__(self) -> int:
        """Return the number of samples of an epoch, of all ranks and workers together."""
        return self._length

    def epoch(self, number: int, part: int = 0, parts: int = 1) -> Iterator[tuple[CineDataset, int]]:
        """Iterate over the samples of one part of the shards in an epoch, each as a dataset and an index in it.

        Args:
            number: index of the epoch, from 0.
            part: index of the part, from 0.
            parts: number of parts, which is the number of loading processes of all ranks.
        """
        shards = [self.shards[index] for index in epoch_order(len(self.shards), self.seed, number)[part::parts]]
        rng = random.Random(stable_seed(self.seed, "shuffle buffer", number, part, parts))
        pipeline = webdataset.DataPipeline(
            lambda: iter(shards),
            self._patients,
            self._samples,
            webdataset.shuffle(self.shuffle_buffer, initial=self.shuffle_buffer, rng=rng),
        )
        return iter(pipeline)

    def _over(self, slices: streamed.Slices) -> CineDataset:
        return CineDataset(slices, self.split, self.unit, **self._options)

    def _patients(self, shards: Iterable[dict[str, Any]]) -> Iterator[streamed.Slices]:
        for shard in shards:
            yield from streamed.patients(self.place, shard, self.patients)

    def _samples(self, patients: Iterable[streamed.Slices]) -> Iterator[tuple[CineDataset, int]]:
        for patient in patients:
            # A sample keeps the data of its dataset in memory, so frames and slices have a dataset of one slice.
            for part in [patient] if self.unit == "stack" else patient.single_slices():
                dataset = self._over(part)
                yield from ((dataset, index) for index in range(len(dataset)))


def _count(manifest: dict[str, Any], split: str, unit: str, place: Path | str) -> int:
    """Return the number of samples of a split according to the manifest."""
    try:
        if unit == "frame":
            return int(manifest["counts"][split]["frames"])
        if unit == "slice":
            return sum(int(shard["samples"]) for shard in manifest["shards"][split])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{place}/manifest.json: does not give the number of {unit}s of {split}; convert the data again"
        ) from error
    return len(manifest["split"][split])


class _Batches(IterableDataset[list[Sample]]):
    """The endless sequence of the batches of one rank; each of W loading processes makes every W-th batch."""

    def __init__(self, stream: CineStream, steps: Stream) -> None:
        self.stream, self.steps = stream, steps

    def __iter__(self) -> Iterator[list[Sample]]:
        steps, info = self.steps, get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        part, parts = steps.rank * workers + worker, steps.world_size * workers
        size, step = steps.global_batch_size // steps.world_size, steps.start_step + worker
        batch: list[Sample] = []
        for epoch in count(steps.start_step * steps.global_batch_size // steps.length):
            for dataset, index in self.stream.epoch(epoch, part, parts):
                where = (epoch, index, *steps.drawn_phases(step))
                batch.append(dataset[where])
                if len(batch) == size:
                    yield batch
                    batch, step = [], step + workers


def make_loader(
    dataset: CineDataset | CineStream,
    global_batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    start_step: int = 0,
    steps_per_update: int = 1,
) -> Loader:
    """Return an endless loader of the samples of this rank in each global batch, by index or from a stream.

    A stream that starts at a later step starts with the first sample of the epoch of that step.

    Args:
        dataset: training split.
        global_batch_size: this and the other arguments as in `train_loader`.
    Raises:
        ValueError: for a batch size, rank or step out of range, or fewer shards than loading processes of all ranks.
    """
    if isinstance(dataset, CineDataset):
        return train_loader(dataset, global_batch_size, rank, world_size, workers, start_step, steps_per_update)
    steps = Stream(
        len(dataset),
        dataset.seed,
        global_batch_size,
        rank,
        world_size,
        start_step,
        dataset.drawn_phases,
        steps_per_update,
    )
    shards, parts = len(dataset.shards), world_size * max(1, workers)
    if shards < parts:
        raise ValueError(
            f"dataset.stream is true, but {dataset.place} has {shards} shards for {parts} loading processes (ranks x "
            "dataset.workers), expected at least as many; lower dataset.workers, or convert with a smaller --shard_mib"
        )
    batch_bytes = dataset.sample_bytes * global_batch_size // world_size
    return Loader(_Batches(dataset, steps), collate, workers, batch_bytes, batch_size=None)
