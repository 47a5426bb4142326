"""Evaluate models on a split: quality on native voxels, bits of the real file, trivial baselines, pictures.

Research use only, not a medical device.

    python scripts/evaluate.py --model mri_titok_e2e_stage3_output --segmenter mri_reference_output --data acdc_wds \\
        --split test --output_dir report

Each patient is packed into a compressed file in memory, and what is scored is decoded from those bytes alone. The last
--model is reported with baselines and pictures; the others are rows of the comparison. With --keep_tokens every model
is a row for each budget; with --sweep the last one is also sampled, steps x realism.

Axes: S side of the model grid, D slices, T phases.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from data.case import CineCase
from data.scoring import heart, pictures
from data.scoring.images import Reference, open_reference
from data.shards.manifest import SPLITS
from data.shards.reader import ShardReader
from data.shards.remote import folder_or_url
from modeling.flow import SAMPLERS
from modeling.titok import TiTok
from scripts.evaluation import sweep
from scripts.evaluation.baselines import make_baselines
from scripts.evaluation.coding import compress, decompress, field_of, load_model
from scripts.evaluation.scoring import Row, evaluate
from scripts.evaluation.segmenters import Opened, open_segmenter
from utils.device import pick_device
from utils.files import write_json, write_text
from utils.log import user_errors
from utils.report import evaluation


def clear(folder: Path) -> None:
    """Remove an earlier report, so that no picture of it stands among the new ones; other files are left alone."""
    if (folder / "summary.json").is_file():
        for path in [folder / "index.html", *(folder / name for name in pictures.NAMES)]:
            path.unlink(missing_ok=True)
        print(f"{folder}: the report that was there is replaced")


def model_names(folders: Sequence[Path]) -> list[str]:
    """One name a model: its folder's, with a number where that repeats."""
    names = [folder.resolve().name for folder in folders]
    return [name if names.count(name) == 1 else f"{name} #{names[: i + 1].count(name)}" for i, name in enumerate(names)]


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, nargs="+", required=True, metavar="FOLDER", help="trained models; the last is reported")
    of_hearts = (
        "reference segmenter: a trained model, or NAME.onnx with NAME.yaml beside it (default: the last --model's)"
    )
    add("--segmenter", type=Path, metavar="PATH", help=of_hearts)
    shards = "folder of shards, from scripts/convert_acdc_to_wds.py, or the URL of one"
    add("--data", type=folder_or_url, required=True, help=shards)
    add("--split", choices=SPLITS, default="test")
    add("--output_dir", type=Path, required=True, help="folder for the report")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default auto: a GPU where there is one)")
    add("--batch_frames", type=int, default=64, help="frames the model takes at a time (default 64)")
    add("--limit", type=int, help="only the first patients of the split")
    keep = "send only the first N tokens of each frame, or of the cine in layout sequence; several give a row each"
    add("--keep_tokens", type=int, nargs="+", metavar="N", help=keep)
    sweep_help = "sample the last --model too: PSNR, SSIM, detail and time by steps x realism"
    add("--sweep", action="store_true", help=sweep_help)
    add("--steps", type=int, nargs="+", default=[2, 4, 8], help="of the sweep (default 2 4 8)")
    add("--realism", type=float, nargs="+", default=[0.25, 0.5, 1.0], help="of the sweep (default 0.25 0.5 1)")
    add("--sampler", choices=list(SAMPLERS), default="euler", help="of the sweep (default euler)")
    args = parser.parse_args(argv)
    if not args.sweep:  # what it would be told is no part of the command that the report shows
        args.sweep = args.steps = args.realism = args.sampler = None
    for options in sweep.settings(args.steps, args.realism, args.sampler) if args.sweep else ():
        options.check("dit")
    for name in ("batch_frames", "limit"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}, expected 1 or more")
    given = [("model", folder) for folder in args.model] + [("segmenter", args.segmenter)]
    for name, folder in given:
        if folder is not None and not folder.is_dir() and not (name == "segmenter" and folder.suffix == ".onnx"):
            raise FileNotFoundError(f"--{name} {folder}: no such folder; give the output folder of a training run")
    return args


def segmenter_note(opened: Opened | None, independent: dict[str, bool]) -> str:
    """Which segmenter measured the hearts, and which models it taught."""
    if opened is None:
        return "Hearts are not scored: the last --model has no segmenter, and no --segmenter was given."
    note = (
        f"Hearts are scored by the segmenter of {opened.segmenter.name}, the same for originals, reconstructions and "
        "baselines, against the ground truth inside the field; it sees the original outside. Volumes and EF are "
        "compared with the whole ground truth. A structure empty in both does not apply; one that is empty in one has "
        "Dice 0 and the volume's diagonal as distance."
    )
    if not opened.segmenter.every_phase:
        note += " It segments ED and ES alone, so there are no phase errors."
    taught = [name for name, free in independent.items() if not free]
    if taught:
        note += (
            f" {evaluation.MARK} This segmenter taught {', '.join(taught)} (losses, choice of ED and ES or anatomy "
            f"tokens), so the figures of the heart marked with {evaluation.MARK} favour that model; give an "
            "independent one with --segmenter."
        )
    return note


def context(args: argparse.Namespace, reader: ShardReader, fields: dict[str, str], limited: bool) -> Row:
    """What the report says of its data and command, and what a reader of its figures has to know."""
    name, field = list(fields.items())[-1]
    notes = [
        f"The field of {name} is {field}: it alone is coded and scored, and ratios count its voxels.",
        "Native voxels are compared after the volume's window; padding is never scored.",
        "Figures are decoded from the bytes of the compressed file; nothing else reaches the decoder.",
    ]
    for other, its in fields.items():
        if its != field:
            notes.append(f"The field of {other} is another, {its}: its figures are not of the same voxels.")
    if limited:
        notes.append(f"Only the first {args.limit} of {len(reader.patients())} patients of the split were evaluated.")
    command = evaluation.public_arguments(vars(args))
    return {
        "data": reader.folder.resolve().name, "modality": reader.samples[0].info["modality"], "split": args.split,
        "notes": notes, "command": command, "command_line": evaluation.command_line("scripts/evaluate.py", command),
    }  # fmt: skip


def of_same_patients(
    rows: dict[str, list[Row]], failed: dict[str, str], patients: int
) -> tuple[dict[str, list[Row]], str]:
    """The rows of the patients that every model could score, and a sentence that names the others, empty for none.

    Raises:
        ValueError: where no patient is left.
    """
    named = "; ".join(f"{patient} ({reason})" for patient, reason in failed.items())
    if len(failed) == patients:
        raise ValueError(f"none of the {patients} patients could be scored: {named}")
    kept = {name: [row for row in found if row["patient"] not in failed] for name, found in rows.items()}
    sentence = f"{len(failed)} of {patients} patients could not be scored and are in no figure: {named}."
    return kept, sentence if failed else ""


@user_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    device, reader = pick_device(args.device), ShardReader(args.data, args.split)
    patients = list(reader.patients())[: args.limit]
    if not patients:
        raise ValueError(f"--data {args.data}: the split {args.split} holds no patients; choose another --split")
    opened = open_segmenter(args.segmenter or args.model[-1], device, args.batch_frames)
    if args.segmenter and opened is None:
        raise ValueError(f"--segmenter {args.segmenter}: that model has no segmenter (model.conditioning)")
    if args.sweep and load_model(args.model[-1], device, args.batch_frames).dit is None:
        raise ValueError(f"--sweep: {args.model[-1]} decodes with the tokenizer's own decoder; give a model with a DiT")
    if opened is None:
        print(f"note: {segmenter_note(None, {})}")
    rows: dict[str, list[Row]] = {}
    fields: dict[str, str] = {}
    leaks: dict[str, str] = {}
    originals: dict[str, dict[str, Row]] = {}  # field -> patient -> figures of the original
    independent: dict[str, bool] = {}
    failed: dict[str, str] = {}
    names = model_names(args.model)
    for name, folder in zip(names, args.model, strict=True):
        model = load_model(folder, device, args.batch_frames)
        if model.config.decoder == "none":
            raise ValueError(f"--model {name} only segments: give it as --segmenter, and a trained stage as --model")
        for keep in args.keep_tokens or []:
            model.layout.keep(keep)
        for keep in args.keep_tokens or [None]:
            row = name if keep is None else f"{name}, {keep} tokens"
            last = name == names[-1] and keep == (args.keep_tokens or [None])[-1]
            baselines, notes = make_baselines(model, args.data, len(patients)) if last else ({}, {})
            fields[row] = field_of(model)
            leaks |= {row: model.conditioning.leak} if model.conditioning.leak else {}
            independent[row] = opened is not None and not opened.lineage & set(model.teachers())
            known = originals.setdefault(fields[row], {})
            segmenter = None if opened is None else opened.segmenter
            scored = evaluate(model, reader, patients, baselines, segmenter, keep, known, failed)
            rows[row] = [{**found, "segmenter_taught_model": int(not independent[row])} for found in scored]

    rows, failure = of_same_patients(rows, failed, len(patients))
    limited = len(patients) < len(reader.patients())
    summary = {**evaluation.summarize(rows, notes), **context(args, reader, fields, limited)}
    if "mean_frame" not in notes:
        summary["notes"].append("There is no mean_frame baseline, since the train split is empty.")
    summary["notes"].append(segmenter_note(opened, independent))
    if opened is not None:
        summary["reference_segmenter"] = {"name": opened.segmenter.name, "independent_of": independent}
    summary["notes"] += [failure] if failure else []
    summary["failed"] = [{"patient": patient, "reason": reason} for patient, reason in failed.items()]
    summary["notes"] += [f"LEAK: {name}: {words}" for name, words in leaks.items()]
    clear(args.output_dir)
    write_json(args.output_dir / "summary.json", summary)
    write_text(args.output_dir / "per_patient.csv", evaluation.csv_text(rows, heart.columns()))

    def reconstruct(case: CineCase) -> tuple[Reference, np.ndarray]:
        reference = open_reference(case, model.config.image_size, model.config.geometry)
        return reference, decompress(model, compress(model, reference, keep))

    last_rows = rows[summary["model"]]
    drawn = [
        pictures.draw_curve(rows, summary, args.output_dir),
        *pictures.draw_agreement(last_rows, summary, args.output_dir),
        *pictures.draw(reconstruct, reader, last_rows, summary, args.output_dir, segmenter),
    ]
    write_text(args.output_dir / "index.html", evaluation.html_page(summary, last_rows, drawn))
    print(evaluation.text_table(*evaluation.comparison(summary)))
    print(f"{segmenter_note(opened, independent)}\n{evaluation.NOTE}")
    print(f"The report is {args.output_dir / 'index.html'}; figures in summary.json and per_patient.csv beside it")
    if args.sweep:
        run_sweep(args, model, reader, [row["patient"] for row in last_rows], names[-1])
    if failure:
        raise ValueError(f"{failure} The report in {args.output_dir} is of the others.")


def run_sweep(args: argparse.Namespace, model: TiTok, reader: ShardReader, patients: list[str], name: str) -> None:
    """Sample the last model over steps x realism, print the table and write it beside the report."""
    chosen = sweep.settings(args.steps, args.realism, args.sampler)
    rows = sweep.sweep(model, reader, patients, chosen)
    about = {"model": name, "data": reader.folder.resolve().name, "split": args.split, "patients": len(patients)}
    device = next(model.parameters()).device.type
    caption = f"{name} on {about['data']}, {args.split}, n = {len(patients)}, {args.sampler}, {device}"
    sweep.write(rows, {**about, "device": device}, args.output_dir, caption)
    print(f"{sweep.table_of(rows)}\n{caption}; HF energy is of detail finer than 4 pixels, 1 is the original's")
    print(f"The sweep is {args.output_dir / 'sweep.png'}, with sweep.csv and sweep.json beside it")


if __name__ == "__main__":
    main()
