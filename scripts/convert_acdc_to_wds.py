"""Convert an ACDC folder to WebDataset shards.

Research use only, not a medical device.

    python scripts/convert_acdc_to_wds.py --input_dir /path/to/acdc_dataset --output_dir acdc_wds --modality 4d_mri

Every patient becomes one sample a slice, in native stored values; beside the shards stands manifest.json with the
split, the settings and whoever was skipped, and why. The same input and settings give the same bytes.

Split: by patient, spread over the diagnoses. Where the input has ACDC's own `testing` folder beside other patients
and --test_fraction is not given, that folder is the test set; otherwise 0.2 of all patients are. Sizes are rounded and
train keeps at least one patient, so a cohort of one goes to train; --test_fraction 1 sends all patients to test.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from data.manifest import SCHEMA_VERSION, SPLITS, read_manifest
from data.shards import ShardWriter, serialize
from data.sources.acdc import MODALITIES, AcdcSource, Options, build
from data.splits import split_patients
from utils.files import atomic_dir, write_json
from utils.log import user_errors

DEFAULT_TEST_FRACTION = 0.2
SETTINGS = ("modality", "seed", "val_fraction", "test_fraction", "shard_mib")  # what the bytes depend on


class Outcome(NamedTuple):
    """What became of one patient: its shard members, or the reason why it was skipped."""

    patient: str
    members: list[tuple[str, bytes]]
    slices: int
    frames: int
    source_hash: str | None
    reason: str | None


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--input_dir", required=True, help="folder with the patients, also in training/, testing/ or below database/")
    add("--output_dir", required=True, type=Path, help="new folder for the shards")
    add("--modality", choices=MODALITIES, default="4d_mri", help="whole cines, or the ED and ES frames as two phases")
    add("--seed", type=int, default=0, help="seed of the split (default 0)")
    add("--val_fraction", type=float, default=0.1, help="part of all patients for validation (default 0.1)")
    add("--test_fraction", type=float, help="part of all patients for the test (default: see above)")
    add("--exclude", nargs="+", default=[], metavar="PATIENT", help="patients to leave out")
    add("--strict", action="store_true", help="stop at the first case that cannot be read instead of skipping it")
    add("--workers", type=int, default=min(4, os.cpu_count() or 1), help="processes (default: up to 4)")
    add("--shard_mib", type=int, default=256, help="size in MiB at which a shard is closed (default 256)")
    return parser.parse_args()


def already_converted(output_dir: Path, source: AcdcSource, settings: dict[str, Any]) -> bool:
    """Whether `output_dir` holds just what this run would write; anything else in it is an error."""
    if not output_dir.exists() or (output_dir.is_dir() and not any(output_dir.iterdir())):
        return False
    advice = "choose another --output_dir, or remove it yourself if it is no longer needed"
    if not (output_dir / "manifest.json").is_file():
        raise ValueError(f"{output_dir}: exists and holds no shards of this script; {advice}")
    manifest = read_manifest(output_dir)
    if manifest.get("settings") != settings:
        raise ValueError(f"{output_dir}: holds shards made with other settings, {manifest.get('settings')}; {advice}")
    if manifest.get("source", {}).get("patients") != {p: hash_or_none(source, p) for p in source.patients()}:
        raise ValueError(f"{output_dir}: holds shards made from other source files; {advice}")
    return True


def hash_or_none(source: AcdcSource, patient: str) -> str | None:
    """The hash of a patient's files, None where they cannot be read."""
    try:
        return source.source_hash(patient)
    except (ValueError, OSError):
        return None


def convert_patient(source: AcdcSource, patient: str) -> Outcome:
    """Read one patient and put it into shard members."""
    try:
        case = source.load(patient)
        members = serialize(case, source.modality)
    except (ValueError, OSError) as error:
        reason = str(error).removeprefix(f"{patient}: ")
        return Outcome(patient, [], 0, 0, hash_or_none(source, patient), reason)
    slices, phases = case.cine.shape[2:]
    return Outcome(patient, members, slices, slices * phases, case.source_hash, None)


def outcomes(source: AcdcSource, workers: int) -> Iterator[Outcome]:
    """Convert the patients in order; never more in memory than two a worker."""
    workers = min(workers, len(source.patients()))
    if workers == 1:
        yield from (convert_patient(source, patient) for patient in source.patients())
        return
    pending: deque[Future[Outcome]] = deque()
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            for patient in source.patients():
                if len(pending) >= 2 * workers:
                    yield pending.popleft().result()
                pending.append(pool.submit(convert_patient, source, patient))
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise ValueError("a worker was killed, probably for memory; try again with fewer --workers") from error
        finally:
            pool.shutdown(cancel_futures=True)


def write_shards(
    folder: Path, source: AcdcSource, settings: dict[str, Any], args: argparse.Namespace
) -> dict[str, Any]:
    """Convert all patients into `folder`; returns the manifest."""
    patients = source.patients()
    held_out = frozenset(p for p in patients if source.held_out(p))
    if args.test_fraction is not None or len(held_out) == len(patients):
        held_out = frozenset()
    groups = {patient: source.group(patient) for patient in patients}
    fraction = DEFAULT_TEST_FRACTION if args.test_fraction is None else args.test_fraction
    planned = split_patients(groups, args.val_fraction, fraction, args.seed, held_out)
    split_of = {patient: split for split in SPLITS for patient in planned[split]}

    writer = ShardWriter(folder, args.shard_mib << 20)
    split: dict[str, list[str]] = {name: [] for name in SPLITS}
    counts = {name: {"patients": 0, "slices": 0, "frames": 0} for name in SPLITS}
    hashes, skipped = {}, []
    progress = tqdm(outcomes(source, args.workers), total=len(patients), unit="patient", desc="converting")
    for done in progress:
        hashes[done.patient] = done.source_hash
        if done.reason is not None:
            if args.strict:
                raise ValueError(f"{done.patient}: {done.reason}")
            skipped.append({"patient": done.patient, "reason": done.reason})
            continue
        name = split_of[done.patient]
        writer.add(name, done.members)
        split[name].append(done.patient)
        for unit, count in (("patients", 1), ("slices", done.slices), ("frames", done.frames)):
            counts[name][unit] += count
    if len(skipped) == len(patients):
        reasons = "; ".join(f"{s['patient']}: {s['reason']}" for s in skipped[:3])
        raise ValueError(f"none of the {len(patients)} patients could be converted, so nothing was written: {reasons}")
    return {
        "schema_version": SCHEMA_VERSION, "notice": "Research use only, not a medical device.", "counts": counts,
        "split": split, "source": {"name": "acdc", "patients": hashes}, "settings": settings, "seed": args.seed,
        "shards": writer.close(), "skipped": skipped,
    }  # fmt: skip


def report(manifest: dict[str, Any], output_dir: Path) -> None:
    """Say what was written, what was not, and where it is."""
    for name in SPLITS:
        count = manifest["counts"][name]
        print(f"{name}: {count['patients']} patients, {count['slices']} slices, {count['frames']} frames")
        if not count["patients"]:
            print(f"  note: {name} is empty; more patients, or other fractions, would fill it")
    if manifest["skipped"]:
        print(f"skipped {len(manifest['skipped'])} patients:")
        for case in manifest["skipped"]:
            print(f"  {case['patient']}: {case['reason']}")
    print(f"Shards are in {output_dir}")


@user_errors()
def main() -> None:
    args = parse_arguments()
    for name in ("workers", "shard_mib"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}, expected 1 or more")
    source = build(Options(args.input_dir, args.modality, args.exclude))
    settings = {name: getattr(args, name) for name in SETTINGS}
    settings["exclude"] = sorted(args.exclude)
    if already_converted(args.output_dir, source, settings):
        print(f"{args.output_dir} holds these very patients under these settings already: nothing to do")
        return
    with atomic_dir(args.output_dir) as folder:
        manifest = write_shards(folder, source, settings, args)
        write_json(folder / "manifest.json", manifest)
    report(manifest, args.output_dir)


if __name__ == "__main__":
    main()
