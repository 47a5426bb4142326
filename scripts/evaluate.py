"""Evaluate models on a split: quality on native voxels, bits of the real file, trivial baselines, pictures.

Research use only, not a medical device.

    python scripts/evaluate.py --model mri_titok_e2e_stage3_output --segmenter mri_reference_output --data acdc_wds \\
        --split test --output_dir report

Each patient is compressed to a file in memory and decoded from the bytes of this file alone. The report shows baselines
and pictures of the last --model; the other models are rows of the comparison. With --keep_tokens, every model has one
row for each number of tokens. With --sweep, the last model is also sampled with several steps x realism.

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
from scripts.evaluation.baselines import Baseline, make_baselines
from scripts.evaluation.results import Results, segmenter_note, summary_of
from scripts.evaluation.scoring import Row, evaluate
from scripts.evaluation.segmenters import Opened, open_segmenter
from scripts.files.codec import compress, decompress, field_of, load_model
from utils.device import pick_device
from utils.files import write_json, write_text
from utils.log import user_errors
from utils.report import evaluation
from utils.report.tables import comparison, csv_text, text_table


def clear(folder: Path) -> None:
    """Delete the page and the pictures of an earlier report in a folder; other files are kept."""
    if (folder / "summary.json").is_file():
        for path in [folder / "index.html", *(folder / name for name in pictures.NAMES)]:
            path.unlink(missing_ok=True)
        print(f"{folder}: the earlier report in this folder is overwritten")


def model_names(folders: Sequence[Path]) -> list[str]:
    """Return one name per model: the name of its folder, with a number if two folders have one name."""
    names = [folder.resolve().name for folder in folders]
    return [name if names.count(name) == 1 else f"{name} #{names[: i + 1].count(name)}" for i, name in enumerate(names)]


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read and check the command line; raise an error for values out of range and missing folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--model",
        type=Path,
        nargs="+",
        required=True,
        metavar="FOLDER",
        help="folders of trained models; the report is on the last",
    )
    segmenter = (
        "reference segmenter: folder of a trained model, or NAME.onnx with NAME.yaml (default: the last --model)"
    )
    add("--segmenter", type=Path, metavar="PATH", help=segmenter)
    shards = "folder of shards from scripts/convert_acdc_to_wds.py, or its URL"
    add("--data", type=folder_or_url, required=True, help=shards)
    add("--split", choices=SPLITS, default="test")
    add("--output_dir", type=Path, required=True, help="folder for the report")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default auto: a GPU if available)")
    add("--batch_frames", type=int, default=64, help="number of frames per batch (default 64)")
    add("--limit", type=int, help="evaluate only the first LIMIT patients of the split")
    keep = "transmit only the first N tokens of each frame (layout sequence: of the cine); one row for each N"
    add("--keep_tokens", type=int, nargs="+", metavar="N", help=keep)
    sweep_help = "also sample the last --model with several steps x realism: PSNR, SSIM, detail and time"
    add("--sweep", action="store_true", help=sweep_help)
    add("--steps", type=int, nargs="+", default=[2, 4, 8], help="sampler steps of the sweep (default 2 4 8)")
    add(
        "--realism",
        type=float,
        nargs="+",
        default=[0.25, 0.5, 1.0],
        help="realism values of the sweep, 0 to 1 (default 0.25 0.5 1)",
    )
    add("--sampler", choices=list(SAMPLERS), default="euler", help="sampler of the sweep (default euler)")
    args = parser.parse_args(argv)
    if not args.sweep:  # options without effect do not appear in the report
        args.sweep = args.steps = args.realism = args.sampler = None
    for options in sweep.sampler_options(args.steps, args.realism, args.sampler) if args.sweep else ():
        options.check("dit")
    for name in ("batch_frames", "limit"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}, expected 1 or more")
    for name, folder in [*(("model", folder) for folder in args.model), ("segmenter", args.segmenter)]:
        if folder is not None and not folder.is_dir() and not (name == "segmenter" and folder.suffix == ".onnx"):
            raise FileNotFoundError(f"--{name} {folder}: no such folder; give the output folder of a training run")
    return args


@user_errors()
def main(argv: Sequence[str] | None = None) -> None:
    """Score all models and write the report."""
    args = parse_arguments(argv)
    device, reader = pick_device(args.device), ShardReader(args.data, args.split)
    patients = list(reader.patients())[: args.limit]
    if not patients:
        raise ValueError(f"--data {args.data}: the split {args.split} has no patients; choose another --split")
    opened = open_segmenter(args.segmenter or args.model[-1], device, args.batch_frames)
    if args.segmenter and opened is None:
        raise ValueError(
            f"--segmenter {args.segmenter}: this model has no segmenter; give a model whose model.conditioning has one"
        )
    if args.sweep and load_model(args.model[-1], device, args.batch_frames).dit is None:
        raise ValueError(f"--sweep: {args.model[-1]} decodes with the tokenizer's own decoder; give a model with a DiT")
    if opened is None:
        print(f"note: {segmenter_note(None, {})}")

    results = Results()
    originals: dict[str, dict[str, Row]] = {}  # field -> patient -> heart metrics of the original
    budgets = args.keep_tokens or [None]
    names = model_names(args.model)
    for name, folder in zip(names, args.model, strict=True):
        model = load_model(folder, device, args.batch_frames)
        if model.config.decoder == "none":
            raise ValueError(f"--model {name} has no decoder; give it as --segmenter, and a trained stage as --model")
        for keep in args.keep_tokens or []:
            model.layout.keep(keep)
        for keep in budgets:
            baselines: dict[str, Baseline] = {}
            if name == names[-1] and keep == budgets[-1]:
                baselines, results.baselines = make_baselines(model, args.data, len(patients))
            row = name if keep is None else f"{name}, {keep} tokens"
            score_model(results, row, model, keep, reader, patients, baselines, opened, originals)

    failure = results.keep_common_patients(len(patients))
    summary = summary_of(results, vars(args), reader, opened, failure)

    def reconstruct(case: CineCase) -> tuple[Reference, np.ndarray]:
        reference = open_reference(case, model.config.image_size, model.config.geometry)
        return reference, decompress(model, compress(model, reference, budgets[-1]))

    write_report(args.output_dir, summary, results.rows, reconstruct, reader, opened)
    print(text_table(*comparison(summary)))
    print(f"{segmenter_note(opened, results.independent)}\n{evaluation.NOTE}")
    print(f"The report is {args.output_dir / 'index.html'}; the metrics are also in summary.json and per_patient.csv")
    if args.sweep:
        scored = [row["patient"] for row in results.rows[summary["model"]]]
        run_sweep(args, model, reader, scored, names[-1])
    if failure:
        raise ValueError(f"{failure} The report in {args.output_dir} covers the other patients.")


def score_model(
    results: Results,
    name: str,
    model: TiTok,
    keep: int | None,
    reader: ShardReader,
    patients: Sequence[str],
    baselines: dict[str, Baseline],
    opened: Opened | None,
    originals: dict[str, dict[str, Row]],
) -> None:
    """Score one model with one number of tokens, and add it to the results.

    Args:
        results: results of all models; the new ones are added.
        name: name of the row.
        model: in eval mode on its device.
        keep: number of transmitted tokens per frame or cine; None for all.
        reader: reader of the split.
        patients: names of the patients to score.
        baselines: baselines of the reported model, see `make_baselines`; empty for other models.
        opened: the reference segmenter, or None.
        originals: field -> patient -> heart metrics of the original; the new ones are added.
    """
    results.fields[name] = field_of(model)
    if model.conditioning.leak:
        results.leaks[name] = model.conditioning.leak
    is_independent = opened is not None and not opened.lineage & set(model.teachers())
    results.independent[name] = is_independent
    of_field = originals.setdefault(results.fields[name], {})
    segmenter = None if opened is None else opened.segmenter
    rows = evaluate(model, reader, patients, baselines, segmenter, keep, of_field, results.failed)
    results.rows[name] = [{**row, "segmenter_taught_model": int(not is_independent)} for row in rows]


def write_report(
    folder: Path,
    summary: Row,
    rows: dict[str, list[Row]],
    reconstruct: pictures.Reconstruct,
    reader: ShardReader,
    opened: Opened | None,
) -> None:
    """Write summary.json, per_patient.csv, the pictures and index.html.

    Args:
        folder: folder of the report.
        summary: content of summary.json.
        rows: model -> one row per patient, the reported model last.
        reconstruct: case -> the original of the patient, and its reconstruction (S, S, D, T) by the reported model.
        reader: reader of the split.
        opened: the reference segmenter, or None.
    """
    clear(folder)
    write_json(folder / "summary.json", summary)
    write_text(folder / "per_patient.csv", csv_text(rows, heart.columns()))
    reported = rows[summary["model"]]
    drawn = [
        pictures.draw_curve(rows, summary, folder),
        *pictures.draw_agreement(reported, summary, folder),
        *pictures.draw(reconstruct, reader, reported, summary, folder, opened.segmenter if opened else None),
    ]
    write_text(folder / "index.html", evaluation.html_page(summary, reported, drawn))


def run_sweep(args: argparse.Namespace, model: TiTok, reader: ShardReader, patients: list[str], name: str) -> None:
    """Sample the last model with several steps x realism, print the table and write it to the folder of the report.

    Args:
        args: command-line arguments.
        model: the last model.
        reader: reader of the split.
        patients: names of the scored patients.
        name: name of the model in the report.
    """
    options = sweep.sampler_options(args.steps, args.realism, args.sampler)
    rows = sweep.sweep(model, reader, patients, options)
    about = {"model": name, "data": reader.folder.resolve().name, "split": args.split, "patients": len(patients)}
    device = next(model.parameters()).device.type
    caption = f"{name} on {about['data']}, {args.split}, n = {len(patients)}, {args.sampler}, {device}"
    sweep.write(rows, {**about, "device": device}, args.output_dir, caption)
    print(f"{sweep.table_of(rows)}\n{caption}")
    print("HF energy is the energy of detail finer than 4 pixels, relative to the original")
    print(f"The sweep is {args.output_dir / 'sweep.png'}, with sweep.csv and sweep.json in the same folder")


if __name__ == "__main__":
    main()
