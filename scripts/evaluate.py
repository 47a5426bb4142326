"""Evaluate models on a split: quality on native voxels, bits of the real file, trivial baselines, pictures.

Research use only, not a medical device.

    python scripts/evaluate.py --model mri_titok_e2e_stage3_output --data acdc_wds --split test --output_dir report

Each patient is packed into a compressed file in memory, and what is scored is decoded from those bytes alone. The last
--model is reported with baselines and pictures; the others are rows of the comparison.

Axes: S side of the model grid, D slices, T phases, K latent tokens a frame, A anatomy tokens a key frame.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from tqdm import tqdm

from data import bitstream, heart_scoring, pictures, preprocess
from data.case import CineCase
from data.heart_scoring import Judge, overlap_only, score_heart
from data.manifest import SPLITS
from data.remote import folder_or_url
from data.scoring import Reference, ceiling, cost, open_reference, score
from data.shards import ShardReader
from modeling.titok import TiTok
from utils import report
from utils.baselines import borrowed, shuffled_within, zeroed
from utils.device import pick_device
from utils.files import write_json, write_text
from utils.log import user_errors

MEAN_FRAME_PATIENTS = 100  # more train patients hardly move their mean; they are then taken evenly

Row = dict[str, Any]
Contender = Callable[[Reference, bytes, bytes], np.ndarray]  # (patient, its file, the next one's) -> (S, S, D, T)


def load_model(folder: Path, device: torch.device, batch_frames: int) -> TiTok:
    """A model from its folder, on its device, that takes `batch_frames` frames at a time."""
    model = TiTok.from_pretrained(folder).to(device).eval()
    model.frames_per_chunk = batch_frames
    return model


def compress(model: TiTok, reference: Reference) -> bytes:
    """A patient's compressed file."""
    x = torch.from_numpy(reference.prepared.image)[None].expand(-1, model.config.channels, -1, -1, -1, -1)
    tokens = model.encode(x.to(next(model.parameters()).device))[0].cpu().numpy()
    header = bitstream.header_for(
        reference.case,
        reference.prepared,
        num_latent_tokens=model.layout.num_tokens,
        num_anatomy_tokens=model.layout.num_anatomy,
        codebook_size=model.layout.codebook_size,
        anatomy_codebook_size=model.layout.anatomy_codebook_size,
    )
    return bitstream.pack(tokens, header)


def decode(model: TiTok, tokens: np.ndarray) -> np.ndarray:
    """Tokens (D, 2 + T*K + 2*A), and nothing else, to (S, S, D, T); a colour tokenizer's channels are averaged."""
    batch = torch.from_numpy(tokens)[None].to(next(model.parameters()).device)
    return model.decode_tokens(batch)[0].float().mean(0).cpu().numpy()


def decompress(model: TiTok, data: bytes) -> np.ndarray:
    """A compressed file, and nothing else, to (S, S, D, T)."""
    return decode(model, bitstream.unpack(data)[0])


def shuffled(data: bytes, next_data: bytes) -> np.ndarray:
    """The next patient's tokens in this patient's shape; of a single patient, its own at another place."""
    tokens, header = bitstream.unpack(data)
    if next_data is data:
        return shuffled_within(tokens, header.phases, header.num_anatomy_tokens)
    source, source_header = bitstream.unpack(next_data)
    return borrowed(source, source_header.phases, header.slices, header.phases, header.num_anatomy_tokens)


def mean_frame(reader: ShardReader, size: int, mode: str) -> tuple[np.ndarray, int]:
    """The mean of all frames of a split on the model grid (S, S), and how many patients went into it."""
    patients = list(reader.patients())
    chosen = patients[:: max(1, math.ceil(len(patients) / MEAN_FRAME_PATIENTS))]
    total, weight = np.zeros((size, size)), np.zeros((size, size))
    for patient in tqdm(chosen, desc="mean frame", unit="patient"):
        prepared = preprocess.prepare(reader.read_case(patient), size, mode)
        total += prepared.image[0].sum(axis=(2, 3), dtype=np.float64)
        weight += preprocess.model_field(prepared.geometry) * math.prod(prepared.image.shape[3:])
    return (total / np.maximum(weight, 1)).astype(np.float32), len(chosen)


def make_judge(model: TiTok | None, batch_frames: int) -> Judge | None:
    """What segments originals and reconstructions, (N, S, S) in [0, 1] to labels; None without a segmenter."""
    segmenter = None if model is None else model.segmenter
    if segmenter is None:
        return None
    device = next(segmenter.parameters()).device

    def judge(frames: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(frames).float()[:, None].split(batch_frames)
        return torch.cat([segmenter.labels(part.to(device)).cpu() for part in parts]).numpy()

    return judge


def check_judge(name: str, model: TiTok, judge: TiTok) -> None:
    """Raise ValueError where the reported model cannot encode, or its judge sees another field."""
    if model.config.decoder == "none":
        raise ValueError(f"--model {name} only segments: give it as --segmenter, and a trained stage as --model")
    ours, its = field_of(model), field_of(judge)
    if ours != its:
        raise ValueError(
            f"the segmenter sees {its}, but {name} sees {ours}: give a --segmenter of the same model.geometry and size"
        )


def make_baselines(model: TiTok, folder: str | Path, patients: int) -> tuple[dict[str, Contender], dict[str, str]]:
    """What the model has to beat: name -> reconstruction, name -> note."""
    config, train = model.config, ShardReader(folder, "train")
    contenders: dict[str, Contender] = {}
    notes: dict[str, str] = {}
    if train.samples:
        image, used = mean_frame(train, config.image_size, config.geometry)
        contenders["mean_frame"] = lambda reference, _, __: np.broadcast_to(
            image[..., None, None], reference.prepared.image.shape[1:]
        )
        notes["mean_frame"] = f"the mean frame on the model grid of {used} of {len(train.patients())} train patients"
    contenders["tokens_zeroed"] = lambda _, data, __: decode(model, zeroed(bitstream.unpack(data)[0]))
    notes["tokens_zeroed"] = "each patient decoded with every token id set to 0"
    contenders["tokens_shuffled"] = lambda _, data, next_data: decode(model, shuffled(data, next_data))
    notes["tokens_shuffled"] = (
        "each patient decoded from the next patient's tokens, matched by relative slice and phase"
        if patients > 1
        else "one patient only: decoded from its own tokens half a stack (of one slice: half a cycle) away"
    )
    return contenders, notes


def with_next(items: Iterable[tuple[Reference, bytes]]) -> Iterator[tuple[Reference, bytes, bytes]]:
    """Each patient with its file and the next patient's, the last with the first's; two patients are held at a time."""
    held: tuple[Reference, bytes] | None = None
    first = b""
    for item in items:
        if held is None:
            first = item[1]
        else:
            yield (*held, item[1])
        held = item
    if held is not None:
        yield (*held, first)


def evaluate(
    model: TiTok,
    reader: ShardReader,
    patients: Sequence[str],
    baselines: dict[str, Contender],
    judge: Judge | None = None,
) -> list[Row]:
    """Score a model, and baselines on the same patients.

    Args:
        model: in eval mode on its device.
        reader: of the split.
        patients: whom to score.
        baselines: name -> what is scored in place of the model's reconstruction.
        judge: who segments originals and reconstructions; without one the heart is not scored.

    Returns:
        One row a patient: the figures of utils/report.py, `curve`, and `baselines`: name -> its figures.

    Raises:
        ValueError: naming the patient that cannot be scored.
    """

    def packed() -> Iterator[tuple[Reference, bytes]]:
        for patient in tqdm(patients, desc="evaluating", unit="patient"):
            reference = open_reference(reader.read_case(patient), model.config.image_size, model.config.geometry)
            yield reference, compress(model, reference)

    rows = []
    for reference, data, next_data in with_next(packed()):
        try:
            decoded = decompress(model, data)
            quality = {**score(reference, decoded), **(score_heart(judge, reference, decoded) if judge else {})}
            against = {}
            for name, make in baselines.items():
                other = make(reference, data, next_data)
                overlap = overlap_only(judge, reference, other) if judge else {}
                against[name] = {**score(reference, other), **overlap}
        except ValueError as error:
            raise ValueError(f"{reference.case.patient}: {error}") from error
        found = {**quality, **cost(reference, data), "psnr_ceiling": ceiling(reference), "baselines": against}
        slices, phases = reference.case.cine.shape[2:]
        who = {"patient": reference.case.patient, "group": reference.case.group}
        rows.append({**who, "slices": slices, "phases": phases, **found})
    return rows


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
    judge = "trained model whose segmenter judges originals and reconstructions (default: the last --model's own)"
    add("--segmenter", type=Path, metavar="FOLDER", help=judge)
    shards = "folder of shards, from scripts/convert_acdc_to_wds.py, or the URL of one"
    add("--data", type=folder_or_url, required=True, help=shards)
    add("--split", choices=SPLITS, default="test")
    add("--output_dir", type=Path, required=True, help="folder for the report")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default auto: a GPU where there is one)")
    add("--batch_frames", type=int, default=64, help="frames the model takes at a time (default 64)")
    add("--limit", type=int, help="only the first patients of the split")
    args = parser.parse_args(argv)
    for name in ("batch_frames", "limit"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}, expected 1 or more")
    given = [("model", folder) for folder in args.model] + [("segmenter", args.segmenter)]
    for name, folder in given:
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(f"--{name} {folder}: no such folder; give the output folder of a training run")
    return args


def field_of(model: TiTok) -> str:
    """The model's field in words."""
    size = model.config.image_size
    words = {"crop": f"{size} x {size} native pixels around the heart", "fit": f"the whole image, {size} pixels a side"}
    return words[model.config.geometry]


def judge_note(args: argparse.Namespace, last: str, judge: Judge | None) -> str:
    """Who judged the hearts."""
    if judge is None:
        return "Hearts are not scored: the model has no segmenter, and no --segmenter was given."
    name = args.segmenter.resolve().name if args.segmenter else last
    return (
        f"Hearts are scored by the segmenter of {name}, the same for originals, reconstructions and baselines, against "
        "the ground truth inside the field; volumes and EF against the whole ground truth. A structure empty in both "
        "does not apply; one that is empty in one has Dice 0 and the volume's diagonal as distance."
    )


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
    command = report.public_arguments(vars(args))
    return {
        "data": reader.folder.resolve().name, "modality": reader.samples[0].info["modality"], "split": args.split,
        "notes": notes, "command": command, "command_line": report.command_line("scripts/evaluate.py", command),
    }  # fmt: skip


@user_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    device, reader = pick_device(args.device), ShardReader(args.data, args.split)
    patients = list(reader.patients())[: args.limit]
    if not patients:
        raise ValueError(f"--data {args.data}: the split {args.split} holds no patients; choose another --split")
    judging = load_model(args.segmenter or args.model[-1], device, args.batch_frames)
    judge = make_judge(judging, args.batch_frames)
    if args.segmenter and judge is None:
        raise ValueError(f"--segmenter {args.segmenter}: that model has no segmenter (model.conditioning)")
    rows: dict[str, list[Row]] = {}
    fields: dict[str, str] = {}
    names = model_names(args.model)
    for name, folder in zip(names, args.model, strict=True):
        model = load_model(folder, device, args.batch_frames)
        if name == names[-1]:
            check_judge(name, model, judging)
        baselines, notes = make_baselines(model, args.data, len(patients)) if name == names[-1] else ({}, {})
        fields[name] = field_of(model)
        seen = judge if fields[name] == field_of(judging) else None  # a judge of another field would see another grid
        rows[name] = evaluate(model, reader, patients, baselines, seen)

    limited = len(patients) < len(reader.patients())
    summary = {**report.summarize(rows, notes), **context(args, reader, fields, limited)}
    if "mean_frame" not in notes:
        summary["notes"].append("There is no mean_frame baseline, since the train split is empty.")
    summary["notes"].append(judge_note(args, names[-1], judge))
    clear(args.output_dir)
    write_json(args.output_dir / "summary.json", summary)
    write_text(args.output_dir / "per_patient.csv", report.csv_text(rows, heart_scoring.columns()))

    def reconstruct(case: CineCase) -> tuple[Reference, np.ndarray]:
        reference = open_reference(case, model.config.image_size, model.config.geometry)
        return reference, decompress(model, compress(model, reference))

    drawn = [
        pictures.draw_curve(rows, summary, args.output_dir),
        *pictures.draw_agreement(rows[names[-1]], summary, args.output_dir),
        *pictures.draw(reconstruct, reader, rows[names[-1]], summary, args.output_dir, judge),
    ]
    write_text(args.output_dir / "index.html", report.html_page(summary, rows[names[-1]], drawn))
    print(report.text_table(*report.comparison(summary)))
    print(report.NOTE)
    print(f"The report is {args.output_dir / 'index.html'}; figures in summary.json and per_patient.csv beside it")


if __name__ == "__main__":
    main()
