"""Convert a dataset, by default ACDC, to WebDataset shards.

Research use only, not a medical device.

    python scripts/convert_acdc_to_wds.py --input_dir /path/to/acdc_dataset --output_dir acdc_wds --modality 4d_mri

Every patient becomes one sample a slice, in native stored values; beside the shards stand the cohort's fingerprint and
manifest.json with the split, the settings and whoever was skipped, and why. The same input and settings give the same
bytes. Cut off and started again, it goes on after the last whole patient, from OUTPUT_DIR.partial.

Split: by patient, spread over the diagnoses. Where the input has ACDC's own `testing` folder beside other patients
and --test_fraction is not given, that folder is the test set; otherwise 0.2 of all patients are. Sizes are rounded and
train keeps at least one patient, so a cohort of one goes to train; --test_fraction 1 sends all patients to test.
With --folds 5 --fold 0 the first fifth of all patients is the test set (of a dataset with a test set of its own, val);
with --split_file a file says who belongs where.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.shards.conversion import Plan, convert, is_done
from data.shards.manifest import SPLITS
from data.shards.splits import fold_patients, read_split, split_patients
from utils.config import registry
from utils.config.recipe import section
from utils.log import user_errors

SOURCES = "data.sources"
DEFAULT_TEST_FRACTION = 0.2
MOST_NAMED = 50  # of what a source does not read
SETTINGS = ("seed", "val_fraction", "test_fraction", "folds", "fold", "shard_mib")  # what the bytes depend on


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--input_dir",
        help="the dataset's folder; of ACDC, with the patients in it, in training/, testing/ or database/",
    )
    add("--output_dir", required=True, type=Path, help="new folder for the shards")
    add("--source", choices=registry.names(SOURCES), default="acdc", help="how the dataset is read (default acdc)")
    add("--source_option", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="further source options")
    add("--modality", help="of acdc: 4d_mri, whole cines (default), or ed_es, the ED and ES frames as two phases")
    add("--exclude", nargs="+", action="extend", default=[], metavar="PATIENT", help="patients to leave out")
    add("--strict", action="store_true", help="stop at the first case that is refused instead of skipping it")
    add("--workers", type=int, default=min(4, os.cpu_count() or 1), help="processes (default: up to 4)")
    add("--shard_mib", type=float, default=200, help="size in MiB at which a shard is closed (default 200)")
    split = parser.add_argument_group("split")
    add = split.add_argument
    add("--seed", type=int, default=0, help="draws who belongs where (default 0)")
    add("--val_fraction", type=float, default=0.1, help="part of all patients for validation (default 0.1)")
    add("--test_fraction", type=float, help="part of all patients for the test (default: see above)")
    add("--folds", type=int, help="number of folds of a cross-validation")
    add("--fold", type=int, help="which of them, from 0")
    add("--split_file", type=Path, help='JSON {"train": [...], "val": [...], "test": [...]} or CSV: patient,split')
    return parser.parse_args()


def check(args: argparse.Namespace) -> None:
    """Refuse values outside their range and options that contradict each other."""
    if args.workers < 1:
        raise ValueError(f"--workers is {args.workers}, expected 1 or more")
    if not args.shard_mib > 0:
        raise ValueError(f"--shard_mib is {args.shard_mib}, expected more than 0")
    if (args.folds is None) != (args.fold is None):
        raise ValueError("--folds and --fold belong together: give both, as in --folds 5 --fold 0, or neither")
    for one, other in (("split_file", "folds"), ("split_file", "test_fraction"), ("folds", "test_fraction")):
        if getattr(args, one) is not None and getattr(args, other) is not None:
            raise ValueError(f"--{one} and --{other} both decide who is tested; give one of them")


def make_source(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The source and the options that it was given."""
    known = registry.option_names(SOURCES, args.source, "source")
    options = section(args.source_option)
    if args.input_dir is not None and "input_dir" not in known:
        raise ValueError(f"--input_dir is given, but the source {args.source} reads no folder; leave it out")
    if args.input_dir is not None:
        options["input_dir"] = args.input_dir
    elif "input_dir" in known and "input_dir" not in options:
        raise ValueError(f"--input_dir is missing; give the folder that the source {args.source} reads")
    if args.modality is not None and "modality" in known:
        options["modality"] = args.modality
    source = registry.build(SOURCES, args.source, options, "source")
    if args.modality not in (None, source.modality):
        raise ValueError(f"--modality is {args.modality}, but {args.source} gives {source.modality} only; leave it out")
    return source, options


def choose_split(args: argparse.Namespace, source: Any, patients: list[str]) -> dict[str, list[str]]:
    """Who belongs to train, val and test."""
    if args.split_file is not None:
        return read_split(args.split_file, patients, args.exclude)
    held_out = frozenset(patient for patient in patients if source.held_out(patient))
    if args.test_fraction is not None or len(held_out) == len(patients):
        held_out = frozenset()
    groups = {patient: source.group(patient) for patient in patients}
    if args.folds is not None:
        return fold_patients(groups, args.folds, args.fold, args.val_fraction, args.seed, held_out)
    fraction = DEFAULT_TEST_FRACTION if args.test_fraction is None else args.test_fraction
    return split_patients(groups, args.val_fraction, fraction, args.seed, held_out)


def make_plan(args: argparse.Namespace) -> Plan:
    """What the command line asks for."""
    source, options = make_source(args)
    everyone = source.patients()
    if unknown := sorted(set(args.exclude) - set(everyone)):
        raise ValueError(f"--exclude names patients that are not there: {', '.join(unknown)}; check them")
    patients = [patient for patient in everyone if patient not in args.exclude]
    if not patients:
        raise ValueError(f"no patients are left of {len(everyone)} after --exclude; exclude fewer")
    split = choose_split(args, source, patients)
    split_of = {patient: name for name in SPLITS for patient in split[name]}
    paths = {key: str(value) for key, value in options.items() if isinstance(value, str) and Path(value).exists()}
    named = {key: Path(paths[key]).name if key in paths else value for key, value in options.items()}
    named = {key: value for key, value in named.items() if key not in ("input_dir", "modality")}
    settings: dict[str, Any] = {"modality": source.modality, "source_options": named, "exclude": sorted(args.exclude)}
    settings |= {name: getattr(args, name) for name in SETTINGS}
    settings["split_file"] = None
    if args.split_file is not None:  # its path is nobody's business, and its layout does not matter
        settings["split_file"] = hashlib.blake2b(json.dumps(split).encode(), digest_size=16).hexdigest()
    hidden = {form for path in paths.values() for form in (path.rstrip("/"), str(Path(path).resolve())) if "/" in form}
    return Plan(
        source, {p: split_of[p] for p in patients}, settings, int(args.shard_mib * (1 << 20)), tuple(sorted(hidden))
    )


def tell_passed_over(passed: dict[str, str]) -> None:
    """Name what the source does not read; printed alone, since names of files can be names of persons."""
    if passed:
        print(f"not read, {len(passed)} in the input folder:")
    for name in sorted(passed)[:MOST_NAMED]:
        print(f"  {name}: {passed[name]}")
    if len(passed) > MOST_NAMED:
        print(f"  and {len(passed) - MOST_NAMED} more")


def report(manifest: dict[str, Any], plan: Plan, output_dir: Path) -> None:
    """Say what was written, what was not, and where it is."""
    skipped = {case["patient"] for case in manifest["skipped"]}
    for name in SPLITS:
        count = manifest["counts"][name]
        print(f"{name}: {count['patients']} patients, {count['slices']} slices, {count['frames']} frames")
        if not count["patients"]:
            lost = sum(split == name and patient in skipped for patient, split in plan.split.items())
            why = f"its {lost} patients were skipped" if lost else "more patients, or another split, would fill it"
            print(f"  note: {name} is empty; {why}")
    if manifest["skipped"]:
        print(f"skipped {len(skipped)} of {len(plan.split)} patients:")
        for case in manifest["skipped"]:
            print(f"  {case['patient']}: {case['reason']} [{case['rule']}]")
    print(f"Shards, manifest.json and fingerprint.html are in {output_dir}")


@user_errors()
def main() -> None:
    args = parse_arguments()
    check(args)
    plan = make_plan(args)
    tell_passed_over(plan.source.passed_over())
    if is_done(plan, args.output_dir):
        print(f"{args.output_dir} holds these very patients under these settings already: nothing to do")
        return
    report(convert(plan, args.output_dir, args.workers, args.strict), plan, args.output_dir)


if __name__ == "__main__":
    main()
