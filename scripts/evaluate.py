"""Evaluate models on a split: quality on native voxels, bits of the real file, trivial baselines, pictures.

Research use only, not a medical device.

    python scripts/evaluate.py --model mri_titok_e2e_stage3_output --segmenter mri_reference_output --data acdc_wds \\
        --split test --output_dir report

Each patient is compressed to a file in memory and decoded from the bytes of this file alone. The report shows baselines
and pictures of the last --model; the other models are rows of the comparison. With --keep_tokens, every model has one
row for each number of tokens. With --sweep, the last model is also sampled from all its tokens, with several steps x
realism.

With --recon_dir, folders of reconstructions by any other method are scored in the same way, in the field of the last
--model, or on the whole image without a model. A folder has PATIENT.nii.gz for each patient, on the grid of the
original, and optionally bytes.csv (columns patient,bytes) with the sizes of the compressed files.

Started by `torchrun --nproc_per_node N` or `accelerate launch --num_processes N`, the processes divide the patients,
each on its own GPU. The report is the same.

Axes: h and w height and width of the field, D slices, T phases.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from data.case import CineCase
from data.scoring import heart, pictures
from data.scoring.images import Reference, to_native
from data.shards.reader import ShardReader
from modeling.titok import TiTok
from scripts.evaluation import sweep
from scripts.evaluation.arguments import parse_arguments
from scripts.evaluation.baselines import Baseline, make_baselines
from scripts.evaluation.recon import (
    WHOLE_IMAGE,
    Recon,
    evaluate_recon,
    open_original,
    open_recon,
    read_native,
)
from scripts.evaluation.results import Results, segmenter_note, summary_of
from scripts.evaluation.scoring import Row, evaluate
from scripts.evaluation.segmenters import Opened, open_segmenter
from scripts.files.codec import DEFAULT_RATE, compress, decompress, field_of, load_model, rate_of
from utils import ranks
from utils.device import pick_device
from utils.errors import user_errors
from utils.files import write_json, write_text
from utils.report import evaluation
from utils.report.command import command_line
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


@user_errors()
@ranks.over_ranks()
def main(argv: Sequence[str] | None = None) -> None:
    """Score all models and write the report."""
    args = parse_arguments(argv, __doc__)
    device, reader = pick_device(args.device), ShardReader(args.data, args.split)
    patients = list(reader.patients())[: args.limit]
    if not patients:
        raise ValueError(f"--data {args.data}: the split {args.split} has no patients; choose another --split")
    opened = open_reference_segmenter(args, device)
    last = load_model(args.model[-1], device, args.batch_frames) if args.model else None
    if args.sweep and last is not None and last.config.samples_with != "dit":
        raise ValueError(f"--sweep: {args.model[-1]} has no DiT and cannot sample; give a model with a DiT")
    recons = [open_recon(folder, patients) for folder in args.recon_dir]

    @lru_cache(maxsize=1)
    def model_of(folder: Path) -> TiTok:
        return last if last and folder == args.model[-1] else load_model(folder, device, args.batch_frames)

    results = Results()
    reconstruct: dict[str, pictures.Reconstruct] = {}
    originals: dict[str, dict[str, Row]] = {}  # field -> patient -> heart metrics of the original
    names = model_names([*args.recon_dir, *args.model])
    for name, recon in zip(names, recons, strict=False):
        score_recon(results, name, recon, last, reader, patients, opened, originals)
        reconstruct[name] = partial(recon_of, recon, last)
    for name, folder in zip(names[len(recons) :], args.model, strict=True):
        model = model_of(folder)
        if model.config.only_segments:
            raise ValueError(f"--model {name} has no decoder; give it as --segmenter, and a trained stage as --model")
        settings = settings_of(args, model)
        for label, options in settings.items():
            baselines: dict[str, Baseline] = {}
            if name == names[-1] and label == list(settings)[-1]:
                baselines, results.baselines = make_baselines(model, args.data, len(patients))
            score_model(results, name + label, model, options, reader, patients, baselines, opened, originals)
            reconstruct[name + label] = partial(decode_again, model_of, folder, options)

    failure = results.keep_common_patients(len(patients))
    command = command_line("scripts/evaluate.py", argv)
    summary = summary_of(results, vars(args), command, reader, opened, failure)

    if ranks.is_main():
        write_report(args.output_dir, summary, results.rows, reconstruct, reader, opened)
    print(text_table(*comparison(summary)))
    print(f"{segmenter_note(opened, results.independent)}\n{evaluation.NOTE}")
    print(f"The report is {args.output_dir / 'index.html'}; the metrics are also in summary.json and per_patient.csv")
    if args.sweep and last is not None:
        scored = [row["patient"] for row in results.rows[summary["model"]]]
        run_sweep(args, last, reader, scored, names[-1])
    if failure:
        raise ValueError(f"{failure} The report in {args.output_dir} covers the other patients.")


def recon_of(recon: Recon, model: TiTok | None, case: CineCase) -> tuple[Reference, np.ndarray]:
    """Return the original of a patient in the field of a model, and the reconstruction by another method."""
    reference = open_original(case, model)
    return reference, read_native(recon, reference)


def decode_again(
    model_of: Callable[[Path], TiTok], folder: Path, options: Row, case: CineCase
) -> tuple[Reference, np.ndarray]:
    """Return the original of a patient in the field of the model of a folder, and the reconstruction by this model."""
    reference = open_original(case, model := model_of(folder))
    return reference, to_native(reference, decompress(model, compress(model, reference, **options)))


def settings_of(args: argparse.Namespace, model: TiTok) -> dict[str, Row]:
    """Return the settings at which a model is scored: end of the row's name -> options of `compress`.

    Raises:
        ValueError: for options that the model does not take.
    """
    if model.ladder is not None:
        if args.keep_tokens:
            raise ValueError("--keep_tokens: a model of layout ladder takes --bytes_per_frame or --psnr; leave it out")
        rate = rate_of(args) or DEFAULT_RATE
        words = {"bytes_per_frame": "B a frame", "psnr": "dB", "heart_weight": "times finer at the heart"}
        return {", ".join(["", *(f"{value:g} {words[key]}" for key, value in rate.items())]): {"rate": rate}}
    if rate := rate_of(args):
        raise ValueError(f"--{list(rate)[-1]} needs models of layout ladder; leave it out")
    for keep in args.keep_tokens or []:
        model.layout.keep(keep)
    return {f", {keep} tokens" if keep else "": {"keep": keep} for keep in args.keep_tokens or [None]}


def open_reference_segmenter(args: argparse.Namespace, device: torch.device) -> Opened | None:
    """Open the reference segmenter: --segmenter, or that of the last --model; None, with a note, if there is none."""
    folder = args.segmenter or (args.model[-1] if args.model else None)
    opened = None if folder is None else open_segmenter(folder, device, args.batch_frames)
    if args.segmenter and opened is None:
        raise ValueError(
            f"--segmenter {args.segmenter}: this model has no segmenter; give a model whose model.conditioning has one"
        )
    if opened is None:
        print(f"note: {segmenter_note(None, {})}")
    return opened


def score_recon(
    results: Results,
    name: str,
    recon: Recon,
    model: TiTok | None,
    reader: ShardReader,
    patients: Sequence[str],
    opened: Opened | None,
    originals: dict[str, dict[str, Row]],
) -> None:
    """Score one folder of reconstructions, and add it to the results.

    Args:
        results: results of all methods; the new ones are added.
        name: name of the row.
        recon: the folder.
        model: the model whose field is compared; None for the whole image.
        reader: reader of the split.
        patients: names of the patients to score.
        opened: the reference segmenter, or None.
        originals: field -> patient -> heart metrics of the original; the new ones are added.
    """
    results.fields[name] = WHOLE_IMAGE if model is None else field_of(model)
    results.independent[name] = opened is not None
    of_field = originals.setdefault(results.fields[name], {})
    segmenter = None if opened is None else opened.segmenter
    rows = evaluate_recon(recon, model, reader, patients, segmenter, of_field, results.failed)
    results.rows[name] = [{**row, "segmenter_taught_model": 0} for row in rows]
    if not recon.sizes:
        results.without_rate.append(name)


def score_model(
    results: Results,
    name: str,
    model: TiTok,
    options: Row,
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
        options: of `compress`.
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
    rows = evaluate(model, reader, patients, baselines, segmenter, options, of_field, results.failed)
    results.rows[name] = [{**row, "segmenter_taught_model": int(not is_independent)} for row in rows]


def write_report(
    folder: Path,
    summary: Row,
    rows: dict[str, list[Row]],
    reconstruct: dict[str, pictures.Reconstruct],
    reader: ShardReader,
    opened: Opened | None,
) -> None:
    """Write summary.json, per_patient.csv, the pictures and index.html.

    Args:
        folder: folder of the report.
        summary: content of summary.json.
        rows: model -> one row per patient, the reported model last.
        reconstruct: model -> function of a case: the original of the patient, and its reconstruction (D, T, h, w).
        reader: reader of the split.
        opened: the reference segmenter, or None.
    """
    clear(folder)
    write_json(folder / "summary.json", summary)
    write_text(folder / "per_patient.csv", csv_text(rows, heart.columns()))
    drawn = pictures.draw(reconstruct, reader, rows, summary, folder, opened.segmenter if opened else None)
    write_text(folder / "index.html", evaluation.html_page(summary, rows[summary["model"]], drawn))


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
    caption = f"{name}, all tokens, on {about['data']}, {args.split}, n = {len(patients)}, {args.sampler}, {device}"
    if ranks.is_main():
        sweep.write(rows, {**about, "device": device}, args.output_dir, caption)
    print(f"{sweep.table_of(rows)}\n{caption}")
    print("HF energy is the energy of detail finer than 4 pixels, relative to the original")
    print(f"The sweep is {args.output_dir / 'sweep.png'}, with sweep.csv and sweep.json in the same folder")


if __name__ == "__main__":
    main()
