"""Speed and memory of the loader, compared with webdataset on the same shards with the same batch size.

    loader           random access in the seeded order of the epoch; reads the selected phases only; on the model's grid
    stream           `dataset.stream`: shards read sequentially, every phase read, on the model's grid
    wids             the loader, but wids, webdataset's indexed reader, reads each sample whole; only where wids is
                     installed, which came with webdataset 0.2 and no longer does
    webdataset       reads each shard sequentially, decodes every .npy (never a pickle) and .json, and selects the same
                     unit in native pixels: no window, no crop, no mask, samples of different shapes in a batch
    webdataset+grid  the same reading, followed by this project's processing to the model's grid: the same work

The sides are measured alternately. A frame, slice or stack is one sample. Rates are per second of wall time and per
second of CPU time of the main process and its workers. The rate per CPU second is also valid on a busy machine and
gives the number of cores that a GPU needs. Memory is the sum of the resident memory of main process and workers, after
the first batch and at the end; shared memory is counted in each process.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import webdataset
from torch.utils.data import DataLoader

from data.loading.dataset import UNITS, CineDataset, Sample, on_grid
from data.loading.loader import collate, train_loader
from data.loading.processes import Loader
from data.loading.stream import CineStream, make_loader
from data.preprocess import MODES, plan
from data.shards.manifest import SPLITS, read_manifest
from data.shards.reader import ShardReader, SliceSample
from data.shards.samples import SampleEntry
from data.shards.tar_index import NpyPlace
from utils.config.ranges import AboveZero, Count, Pixels, Positive
from utils.files import user_path, write_json

HELP = "samples a second and memory of the loader, compared with webdataset"
HAS_WIDS = importlib.util.find_spec("wids") is not None
SIDES = ("loader", "stream", "webdataset", "webdataset+grid", *(["wids"] if HAS_WIDS else []))


@dataclass(frozen=True)
class Reading:
    """What is read: see the command's options."""

    data: str
    split: str
    unit: str
    phases: int
    image_size: int
    geometry: str
    batch: int

    def shards(self) -> list[str]:
        """The shard files."""
        return [str(Path(self.data) / shard["file"]) for shard in read_manifest(self.data)["shards"][self.split]]


def decoded(sample: dict[str, Any]) -> SliceSample:
    """A sample of webdataset, decoded without pickles, as this project's reader gives it."""
    cine = np.load(io.BytesIO(sample["cine.npy"]), allow_pickle=False)
    info = json.loads(sample["json"])
    masks = {
        info[key]: np.load(io.BytesIO(sample[f"mask_{key}.npy"]), allow_pickle=False)
        for key in ("ed", "es")
        if f"mask_{key}.npy" in sample
    }
    entry = SampleEntry(sample["__key__"], "", NpyPlace(0, cine.shape, cine.dtype), {}, info)
    return SliceSample(entry, cine, masks)


def units(slices: Iterable[SliceSample], reading: Reading) -> Iterator[tuple[list[SliceSample], np.ndarray]]:
    """Cut slices, which come in the order of the shards, into frames, slices or stacks, each with its phases."""
    stack: list[SliceSample] = []
    for part in slices:
        phases = part.entry.phases
        if reading.unit == "frame":
            yield from (at([part], np.array([phase])) for phase in range(phases))
        elif reading.unit == "slice":
            yield at([part], np.arange(reading.phases) * phases // reading.phases)
        else:
            stack.append(part)
            if len(stack) == part.entry.slices:
                yield at(stack, np.sort([part.entry.info["ed"] or 0, part.entry.info["es"] or 0]))
                stack = []


def at(slices: list[SliceSample], times: np.ndarray) -> tuple[list[SliceSample], np.ndarray]:
    """Slices at some of their phases."""
    wanted = set(times.tolist())
    parts = [s._replace(cine=s.cine[times], masks={t: m for t, m in s.masks.items() if t in wanted}) for s in slices]
    return parts, times


def native(unit: tuple[list[SliceSample], np.ndarray]) -> torch.Tensor:
    """A unit in native pixels, (D, T, H, W)."""
    return torch.from_numpy(np.stack([part.cine for part in unit[0]]))


def sample(unit: tuple[list[SliceSample], np.ndarray], reading: Reading) -> Sample:
    """A unit on the model's grid."""
    slices, times = unit
    entry = slices[0].entry
    geometry = plan(entry.native_hw, reading.image_size, reading.geometry, entry.info["center"])
    arrays = on_grid(slices, times, geometry)
    return Sample({**arrays, "key_frames": np.full(2, -1, np.int64)}, 0, slices[0].entry.key)


def every_shard(shards: Iterable[Any]) -> Iterable[Any]:
    """All shards for each worker: one shard could not be divided among two, and only speed is measured."""
    return shards


def together(samples: list[Any]) -> list[Any]:
    """A batch of samples of different shapes."""
    return samples


def by_webdataset(reading: Reading, workers: int, grid: bool) -> DataLoader[Any]:
    """Webdataset's endless reading of the shards."""
    dataset = webdataset.WebDataset(reading.shards(), shardshuffle=False, workersplitter=every_shard).repeat()
    dataset = dataset.map(decoded).compose(partial(units, reading=reading))
    dataset = dataset.map(partial(sample, reading=reading) if grid else native)
    return DataLoader(dataset, reading.batch, num_workers=workers, collate_fn=collate if grid else together)


def by_loader(reading: Reading, workers: int) -> Loader:
    """This project's loader."""
    return train_loader(over(reading.data, reading), reading.batch, workers=workers)


def over(source: str | ShardReader, reading: Reading) -> CineDataset:
    """The samples of a folder or reader."""
    phases = reading.phases if reading.unit == "slice" else None
    return CineDataset(source, reading.split, reading.unit, reading.image_size, reading.geometry, phases=phases)


class WidsReader(ShardReader):
    """Slices read whole by wids from a memory map; its pickled index and its decoders are not used."""

    def __init__(self, folder: str, split: str) -> None:
        super().__init__(folder, split)
        self._tars: dict[str, Any] = {}
        self._place: dict[str, int] = {}

    def read(self, index: int, times: Iterable[int] | None = None) -> SliceSample:
        """A slice at some of its phases."""
        from wids.wids import IndexedTarSamples

        entry = self.samples[index]
        if entry.shard not in self._tars:
            tar = self._tars[entry.shard] = IndexedTarSamples(path=str(self.folder / entry.shard))
            names = list(tar.reader.names())
            self._place |= {names[places[0]].split(".")[0]: at for at, places in enumerate(tar.samples)}
        members = self._tars[entry.shard][self._place[entry.key]]
        raw = {kind.lstrip("."): part.read() for kind, part in members.items() if kind.startswith(".")}
        whole = decoded({"__key__": entry.key, **raw})._replace(entry=entry)
        return whole if times is None else at([whole], np.array(list(times)))[0][0]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_tars": {}}


def by_wids(reading: Reading, workers: int) -> Loader:
    """This project's loader over wids."""
    return train_loader(over(WidsReader(reading.data, reading.split), reading), reading.batch, workers=workers)


def by_stream(reading: Reading, workers: int) -> Loader:
    """This project's stream; with too few shards for the loading processes, it has as many as there are shards."""
    phases = reading.phases if reading.unit == "slice" else None
    stream = CineStream(
        reading.data, reading.split, reading.unit, image_size=reading.image_size, geometry=reading.geometry,
        phases=phases,
    )  # fmt: skip
    return make_loader(stream, reading.batch, workers=min(workers, len(stream.shards)))


def make_side(side: str, reading: Reading, workers: int) -> Callable[[], Iterable[Any]]:
    """What makes the loader of a side."""
    own = {"loader": by_loader, "stream": by_stream, "wids": by_wids}
    if side in own:
        return partial(own[side], reading, workers)
    return partial(by_webdataset, reading, workers, side == "webdataset+grid")


def processes() -> list[psutil.Process]:
    """This process and its workers."""
    main = psutil.Process()
    return [main, *main.children(recursive=True)]


def resident_mib() -> float:
    """Resident memory in MiB."""
    return sum(process.memory_info().rss for process in processes()) / 2**20


def cpu_seconds() -> float:
    """CPU time so far."""
    return sum(sum(process.cpu_times()[:2]) for process in processes())


def measure(make: Callable[[], Iterable[Any]], batch: int, seconds: float) -> dict[str, float]:
    """Samples a second after the first batch, and memory."""
    batches = iter(make())
    next(batches)
    first, cpu, count, start = resident_mib(), cpu_seconds(), 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        next(batches)
        count += batch
    rates = {"samples_per_s": count / passed, "samples_per_cpu_s": count / (cpu_seconds() - cpu)}
    return {**rates, "mib_first": first, "mib_last": resident_mib()}


def run(args: argparse.Namespace) -> None:
    """Measure reading, print a table and write it to a file."""
    torch.set_num_threads(1)
    rows = []
    print(f"{'unit':6} {'workers':>7} {'side':16} {'samples/s':>10} {'ratio':>6} {'/ CPU s':>10} {'ratio':>6} "
          f"{'MiB first':>10} {'last':>6}    ratio = loader / side")  # fmt: skip
    for unit in args.units:
        reading = Reading(args.data, args.split, unit, args.phases, args.image_size, args.geometry, args.batch)
        for workers in args.workers:
            turns: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
            for _ in range(args.rounds):
                for side in SIDES:
                    turns[side].append(measure(make_side(side, reading, workers), args.batch, args.seconds))
            medians = {
                side: {name: statistics.median(turn[name] for turn in turns[side]) for name in turns[side][0]}
                for side in SIDES
            }
            for side, values in medians.items():
                rates = ("samples_per_s", "samples_per_cpu_s")
                ratios = [medians["loader"][name] / values[name] for name in rates]
                named = {f"loader_over_side_{name}": ratio for name, ratio in zip(rates, ratios, strict=True)}
                rows.append({"unit": unit, "workers": workers, "side": side, **values, **named})
                print(f"{unit:6} {workers:7} {side:16} {values['samples_per_s']:10.1f} {ratios[0]:6.2f} "
                      f"{values['samples_per_cpu_s']:10.1f} {ratios[1]:6.2f} {values['mib_first']:10.0f} "
                      f"{values['mib_last']:6.0f}")  # fmt: skip
    if args.output:
        settings = {name: value for name, value in vars(args).items() if name not in ("run", "data", "output")}
        about = {"command": "data", "data": Path(args.data).name, "cpu_count": os.cpu_count()}
        write_json(args.output, {**about, "settings": settings, "results": rows})


RANGES = {
    "workers": Count, "phases": Positive, "image_size": Pixels, "batch": Positive, "seconds": AboveZero,
    "rounds": Positive,
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("--data", required=True, metavar="FOLDER", help="folder of shards, from scripts/convert_acdc_to_wds.py")
    add("--split", choices=SPLITS, default="train")
    add("--units", nargs="+", choices=UNITS, default=list(UNITS))
    add("--workers", nargs="+", type=int, default=[0, 1, 2], help="numbers of loading processes (default 0 1 2)")
    add("--phases", type=int, default=4, help="phases of a slice (default 4)")
    add("--image_size", type=int, default=128, help="side of the model's grid in pixels (default 128)")
    add("--geometry", choices=MODES, default="crop")
    add("--batch", type=int, default=16, help="samples of a batch (default 16)")
    add("--seconds", type=float, default=5.0, help="duration of each measurement (default 5)")
    add("--rounds", type=int, default=3, help="number of interleaved repetitions; the median is reported (default 3)")
    add("--output", type=user_path, metavar="FILE", help="write the table as JSON")
