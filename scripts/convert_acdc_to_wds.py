"""Convert a dataset, by default ACDC, to WebDataset shards.

Research use only, not a medical device.

    python scripts/convert_acdc_to_wds.py --input_dir /path/to/acdc_dataset --output_dir acdc_wds --modality 4d_mri

Each slice of a patient becomes one sample, in native stored values. The output folder also holds the fingerprint of the
cohort, and manifest.json with the split, the settings, and the skipped patients with the reason. The same input and
settings give the same bytes. If the command is interrupted, the same command continues after the last complete patient,
from OUTPUT_DIR.partial.

Split: by patient, stratified by diagnosis. If the input has ACDC's `testing` folder and other patients, and
--test_fraction is not given, `testing` is the test set; otherwise 0.2 of all patients are. Sizes are rounded. The
training set keeps at least one patient, except with --test_fraction 1, which puts all patients in the test set. With
--folds 5 --fold 0 the first of five parts is the test set (the validation set, if the dataset has its own test set).
With --split_file a file defines the split.

On a cluster, N jobs can convert the patients in parts. Each job adds --part K/N (K from 1 to N) to the same options.
When all parts are complete, the same command with --merge_parts instead writes OUTPUT_DIR, with the bytes of one
conversion, and then removes OUTPUT_DIR.parts. A part or a merge that was interrupted continues with the same command.
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
from data.shards.parts import convert_part, merge_parts, parse_part, parts_folder, remove_parts
from data.shards.splits import fold_patients, read_split, split_patients
from scripts.files.unread import print_unread
from utils.config import registry
from utils.config.ranges import AboveZero, Positive, check_options
from utils.config.recipe import section
from utils.errors import user_errors
from utils.files import user_path

SOURCES = "data.sources"
DEFAULT_TEST_FRACTION = 0.2
SETTINGS = ("seed", "val_fraction", "test_fraction", "folds", "fold", "shard_mib")  # that the bytes depend on


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--input_dir",
        help="folder of the dataset; for ACDC, patients are in it, or in training/, testing/ or database/",
    )
    add("--output_dir", required=True, type=user_path, help="new folder for the shards")
    add("--source", choices=registry.names(SOURCES), default="acdc", help="type of the dataset (default acdc)")
    add("--source_option", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="other source options")
    add("--modality", help="for acdc: 4d_mri, whole cines (default), or ed_es, the ED and ES frames as two phases")
    add("--exclude", nargs="+", action="extend", default=[], metavar="PATIENT", help="patients to leave out")
    add("--strict", action="store_true", help="stop at the first refused case instead of skipping it")
    add("--workers", type=int, default=min(4, os.cpu_count() or 1), help="number of processes (default: up to 4)")
    add("--shard_mib", type=float, default=200, help="size in MiB at which a shard is closed (default 200)")
    add("--part", metavar="K/N", help="convert only part K of N, to OUTPUT_DIR.parts, such as 3/16")
    add("--merge_parts", action="store_true", help="write OUTPUT_DIR from the N parts, with the options of the parts")
    split = parser.add_argument_group("split")
    add = split.add_argument
    add("--seed", type=int, default=0, help="random seed of the split (default 0)")
    add("--val_fraction", type=float, default=0.1, help="fraction of all patients for validation (default 0.1)")
    add("--test_fraction", type=float, help="fraction of all patients for the test set (default: see above)")
    add("--folds", type=int, help="number of folds of a cross-validation")
    add("--fold", type=int, help="number of the fold, from 0")
    add("--split_file", type=user_path, help='JSON {"train": [...], "val": [...], "test": [...]} or CSV: patient,split')
    args = parser.parse_args()
    args.part = None if args.part is None else parse_part(args.part)
    return args


def check(args: argparse.Namespace) -> None:
    """Refuse values outside their range and options that contradict each other."""
    check_options(args, {"workers": Positive, "shard_mib": AboveZero})
    if args.part is not None and args.merge_parts:
        raise ValueError("--part converts one part, --merge_parts merges all parts; give one of them")
    if (args.folds is None) != (args.fold is None):
        raise ValueError("--folds and --fold belong together: give both, as in --folds 5 --fold 0, or neither")
    for one, other in (("split_file", "folds"), ("split_file", "test_fraction"), ("folds", "test_fraction")):
        if getattr(args, one) is not None and getattr(args, other) is not None:
            raise ValueError(f"--{one} and --{other} both define the test set; give one of them")


def make_source(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The source and its options."""
    known = registry.option_names(SOURCES, args.source, "source")
    options = {key: os.path.expanduser(value) if isinstance(value, str) else value
               for key, value in section(args.source_option).items()}  # fmt: skip
    if args.input_dir is not None and "input_dir" not in known:
        raise ValueError(f"--input_dir is given, but the source {args.source} reads no folder; leave it out")
    if args.input_dir is not None:
        options["input_dir"] = str(user_path(args.input_dir))
    elif "input_dir" in known and "input_dir" not in options:
        raise ValueError(f"--input_dir is missing; give the folder that the source {args.source} reads")
    if args.modality is not None and "modality" in known:
        options["modality"] = args.modality
    source = registry.build(SOURCES, args.source, options, "source")
    if args.modality not in (None, source.modality):
        raise ValueError(f"--modality is {args.modality}, but {args.source} gives {source.modality} only; leave it out")
    return source, options


def choose_split(args: argparse.Namespace, source: Any, patients: list[str]) -> dict[str, list[str]]:
    """The patients of train, val and test."""
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
    """The conversion that the command line describes."""
    source, options = make_source(args)
    everyone = source.patients()
    if unknown := sorted(set(args.exclude) - set(everyone)):
        raise ValueError(f"--exclude names unknown patients: {', '.join(unknown)}; correct the names")
    patients = [patient for patient in everyone if patient not in args.exclude]
    if not patients:
        raise ValueError(f"--exclude leaves out all {len(everyone)} patients; exclude fewer")
    split = choose_split(args, source, patients)
    split_of = {patient: name for name in SPLITS for patient in split[name]}
    paths = {key: str(value) for key, value in options.items() if isinstance(value, str) and Path(value).exists()}
    named = {key: Path(paths[key]).name if key in paths else value for key, value in options.items()}
    named = {key: value for key, value in named.items() if key not in ("input_dir", "modality")}
    settings: dict[str, Any] = {"modality": source.modality, "source_options": named, "exclude": sorted(args.exclude)}
    settings |= {name: getattr(args, name) for name in SETTINGS}
    settings["split_file"] = None
    if args.split_file is not None:  # the path is private, and the file format does not matter
        settings["split_file"] = hashlib.blake2b(json.dumps(split).encode(), digest_size=16).hexdigest()
    hidden = {form for path in paths.values() for form in (path.rstrip("/"), str(Path(path).resolve())) if "/" in form}
    return Plan(
        source, {p: split_of[p] for p in patients}, settings, int(args.shard_mib * (1 << 20)), tuple(sorted(hidden))
    )


def report(manifest: dict[str, Any], plan: Plan, output_dir: Path) -> None:
    """Print the counts of each split, the skipped patients and the output folder."""
    skipped = {case["patient"] for case in manifest["skipped"]}
    for name in SPLITS:
        count = manifest["counts"][name]
        print(f"{name}: {count['patients']} patients, {count['slices']} slices, {count['frames']} frames")
        if not count["patients"]:
            lost = sum(split == name and patient in skipped for patient, split in plan.split.items())
            why = f"its {lost} patients were skipped" if lost else "use more patients or another split to fill it"
            print(f"  note: {name} is empty; {why}")
    if manifest["skipped"]:
        print(f"skipped {len(skipped)} of {len(plan.split)} patients:")
        for case in manifest["skipped"]:
            print(f"  {case['patient']}: {case['reason']} [{case['rule']}]")
    print(f"Shards, manifest.json and fingerprint.html are in {output_dir}")


def run_part(args: argparse.Namespace, plan: Plan) -> None:
    """Convert one part and print what it holds."""
    part = args.part
    lines = convert_part(plan, args.output_dir, part, args.workers, args.strict)
    skipped = [line for line in lines if "reason" in line]
    print(f"part {part} is complete in {parts_folder(args.output_dir)}: {len(lines)} patients, {len(skipped)} skipped")
    for line in skipped:
        print(f"  {line['patient']}: {line['reason']} [{line['rule']}]")
    print(f"When all {part.total} parts are complete, give --merge_parts instead of --part")


@user_errors()
def main() -> None:
    args = parse_arguments()
    check(args)
    plan = make_plan(args)
    print_unread(plan.source.unread_files())
    if is_done(plan, args.output_dir, args.strict):
        print(f"{args.output_dir} already holds these patients with these settings: nothing to do")
    elif args.part is not None:
        run_part(args, plan)
    elif args.merge_parts:
        report(merge_parts(plan, args.output_dir, args.strict), plan, args.output_dir)
    else:
        report(convert(plan, args.output_dir, args.workers, args.strict), plan, args.output_dir)
    if args.merge_parts:
        remove_parts(args.output_dir)


if __name__ == "__main__":
    main()
