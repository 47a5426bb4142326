"""Probe what frozen tokens say about a patient: diagnostic group and ejection fraction (EF), by linear models.

Research use only, not a medical device. Needs `pip install scikit-learn`.

    python scripts/probe.py --data acdc_wds --model mri_titok_tokenizer_stage1_output --output_dir probe

The tokens of each patient become one vector of features. A logistic regression predicts the group, and a ridge
regression predicts the EF of the left ventricle, both by repeated cross-validation over patients. Trivial features of
the images are probed in the same way, and so are random labels and the volumes of the ground truth.

OUTPUT_DIR then holds probe.json, probe.csv and probe.png.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from data.shards.manifest import NOTICE, SPLITS
from data.shards.reader import ShardReader
from data.shards.remote import folder_or_url
from modeling.titok import TiTok
from scripts.evaluate import model_names
from scripts.files.codec import identity_of, load_model
from scripts.probing import results
from scripts.probing.crossval import require_sklearn
from scripts.probing.features import LABELS, Patient, extract, list_patients
from scripts.probing.results import EF, GROUP, Method, Row, Target
from utils.device import pick_device
from utils.errors import user_errors
from utils.files import user_path, write_json, write_text
from utils.report.command import command_line, public_arguments
from utils.report.tables import text_table

DRAWS = 2000
UNKNOWN = "unknown"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=folder_or_url, required=True, metavar="SHARDS", help="folder or URL of shards")
    splits = "splits of the patients (default all); the tokenizer was trained on the images of train"
    add("--split", choices=SPLITS, nargs="+", default=list(SPLITS), help=splits)
    add(
        "--model", type=user_path, nargs="+", required=True, metavar="FOLDER", help="models of layout frame or sequence"
    )
    add(
        "--output_dir",
        type=user_path,
        required=True,
        metavar="DIR",
        help="folder for probe.json, probe.csv and probe.png",
    )
    targets = "what is predicted (default both); ef also works without groups"
    add("--target", choices=[GROUP, EF], nargs="+", default=[GROUP, EF], help=targets)
    add("--folds", type=int, default=5, help="folds of the cross-validation (default 5)")
    add("--repeats", type=int, default=5, help="repeats of the cross-validation (default 5)")
    add("--permutations", type=int, default=100, help="random orders of the labels (default 100)")
    add("--seed", type=int, default=0, help="seed of folds, random labels and bootstrap (default 0)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default auto: a GPU if available)")
    add("--batch_frames", type=int, default=64, help="number of frames in a batch (default 64)")
    args = parser.parse_args(argv)
    args.split, args.target = ([*dict.fromkeys(values)] for values in (args.split, args.target))
    for name, least in (("folds", 2), ("repeats", 1), ("permutations", 0), ("seed", 0), ("batch_frames", 1)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name} is {getattr(args, name)}, expected {least} or more")
    for folder in args.model:
        if not folder.is_dir():
            raise FileNotFoundError(f"--model {folder}: no such folder; give the output folder of a training run")
    return args


def open_models(
    folders: Sequence[Path], device: torch.device, batch_frames: int
) -> tuple[dict[str, TiTok], dict[str, str]]:
    """The models by name, without those that have the tokens of an earlier one, and the names of both: copy -> earlier.

    Raises:
        ValueError: for a model without tokens of frames or cines, or one that encodes ground truth.
    """
    models: dict[str, TiTok] = {}
    copies: dict[str, str] = {}
    seen: dict[tuple[int, int, str], str] = {}
    for name, folder in zip(model_names(folders), folders, strict=True):
        model = load_model(folder, device, batch_frames)
        if model.ladder is not None:
            raise ValueError(
                f"--model {folder}: a rate ladder codes residuals, which have no codebook to probe; give a model of "
                "layout frame or sequence"
            )
        if model.config.only_segments:
            raise ValueError(f"--model {folder}: this model only segments and has no tokens; give a trained stage")
        if model.conditioning.leak is not None:
            raise ValueError(f"--model {folder}: {model.conditioning.leak}; give a model that encodes images only")
        tokens = identity_of(model).tokens_id, model.config.image_size, model.config.geometry
        if tokens in seen:
            copies[name] = seen[tokens]
        else:
            seen[tokens], models[name] = name, model
    return models, copies


def check_patients(patients: Sequence[Patient], args: argparse.Namespace) -> None:
    """Raise a ValueError, before any image is read, if the patients are too few or a target is unknown."""
    where = f"--data {args.data}, split {' '.join(args.split)}"
    if not patients:
        raise ValueError(f"{where}: no patients; choose another --split")
    for target in args.target:
        known = [p for p in patients if (p.group is not None if target == GROUP else p.has_ef)]
        if not known and target == GROUP:
            raise ValueError(f"{where}: no patient has a group; add --target ef to predict the EF alone")
        if not known:
            raise ValueError(f"{where}: no patient has labels at ED and ES; add --target group to leave the EF out")
        check_sizes(strata_of([p.group or UNKNOWN for p in known], args.folds, target), args.folds, target, where)


def strata_of(groups: Sequence[str], folds: int, target: str) -> list[str]:
    """Return the group of each patient, by which the folds are balanced.

    The EF needs no groups: patients of a group with fewer patients than folds are counted with the largest group.
    """
    sizes = Counter(groups)
    largest = max(sizes, key=lambda name: sizes[name])
    return [largest if target == EF and sizes[group] < folds else group for group in groups]


def check_sizes(groups: Sequence[str], folds: int, target: str, where: str) -> None:
    """Raise a ValueError if a group has too few patients for the folds."""
    sizes = Counter(groups)
    name, size = min(sizes.items(), key=lambda item: item[1])
    if size < folds:
        raise ValueError(
            f"{where}: group {name} has {size} patients with a known {target}, fewer than --folds {folds}; lower "
            "--folds, or add a --split"
        )
    if target == GROUP and (len(sizes) < 2 or size - -(-size // folds) < 2):
        problem = f"group {name} has {size} patients" if len(sizes) > 1 else f"all patients are of group {name}"
        raise ValueError(
            f"{where}: {problem}; a probe needs two groups or more, with two patients of each outside every test "
            "fold; add a --split, or --target ef"
        )


def make_targets(names: Sequence[str], patients: Sequence[Patient], ef: np.ndarray, folds: int) -> list[Target]:
    """The targets, each with the patients whose value is known.

    Args:
        names: GROUP or EF.
        patients: all patients.
        ef: (n,) EF in %, NaN where unknown.
        folds: number of folds, see `strata_of`.
    """
    groups = np.array([patient.group or UNKNOWN for patient in patients])
    targets = []
    for name in names:
        members = np.flatnonzero([p.group is not None for p in patients] if name == GROUP else np.isfinite(ef))
        strata = np.array(strata_of(groups[members].tolist(), folds, name))
        y = np.unique(strata, return_inverse=True)[1] if name == GROUP else ef[members]
        targets.append(Target(name, members, y, strata))
    return targets


def notes_of(args: argparse.Namespace, rows: dict[str, list[Row]], copies: dict[str, str]) -> list[str]:
    """What a reader of the table needs to know."""
    notes = [
        f"Intervals hold 95 % of {DRAWS} bootstrap draws of patients within groups, for fixed predictions; of random "
        f"labels, 95 % of {args.permutations} orders. `minus picture` is the difference to the small picture."
    ]
    if "train" in args.split:
        notes.append(
            "Patients of the split train are included: a tokenizer of this split was trained on their images, but not "
            "on their groups or EF, unless a loss of its recipe used labels. --split val test probes other patients."
        )
    if copies:
        notes.append(
            "Equal tokens or features, probed once: " + "; ".join(f"{a} = {b}" for a, b in copies.items()) + "."
        )
    for target, of_target in rows.items():
        if not any(row["kind"] == LABELS for row in of_target):
            notes.append(f"{target}: volumes of the ground truth are left out, since they are not known for everyone.")
    return notes


@user_errors()
def main(argv: Sequence[str] | None = None) -> None:
    """Encode all patients, probe all features and write the results."""
    args = parse_arguments(argv)
    require_sklearn()
    device = pick_device(args.device)
    patients = list_patients([ShardReader(args.data, split) for split in args.split])
    check_patients(patients, args)
    models, copies = open_models(args.model, device, args.batch_frames)
    sets, ef = extract(models, patients, device)
    sets, equal = results.without_copies(sets)
    copies |= equal
    method = Method(args.folds, args.repeats, args.seed, args.permutations, DRAWS)
    targets = make_targets(args.target, patients, ef, args.folds)
    for target in targets:
        check_sizes(list(target.strata), args.folds, target.name, f"--data {args.data}")
    rows = {target.name: results.probe_target(target, sets, method) for target in targets}
    chance = {GROUP: 1 / max(1, len({p.group for p in patients} - {None}))}
    if EF in rows:
        chance[EF] = next(row["mae"] for row in rows[EF] if not row["number"])

    data = patients[0].reader.folder.resolve().name
    caption = f"{data}, {' '.join(args.split)}, {args.repeats} x {args.folds} folds over patients"
    command = public_arguments(vars(args))
    everything = [row for of_target in rows.values() for row in of_target]
    notes = notes_of(args, rows, copies)
    write_json(
        args.output_dir / "probe.json",
        {
            "notice": NOTICE,
            "caption": caption,
            "patients": {p.name: {"split": p.reader.split, "group": p.group} for p in patients},
            "method": method._asdict(),
            "chance": {name: chance[name] for name in rows},
            "equal_features": copies,
            "rows": everything,
            "notes": notes,
            "command": command,
            "command_line": command_line("scripts/probe.py", argv),
        },
    )
    write_text(args.output_dir / "probe.csv", results.csv_text(everything))
    picture = args.output_dir / "probe.png"
    results.draw(picture, rows, chance, caption)
    for target, of_target in rows.items():
        print(f"{text_table(*results.table(of_target, target))}\n")
    print("\n".join([caption, *notes]))
    print(f"The picture is {picture}, with probe.csv and probe.json in the same folder")


if __name__ == "__main__":
    main()
