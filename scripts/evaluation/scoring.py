"""Patients scored one by one: what a model makes of its own bytes, beside baselines, on native voxels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from data.scoring.heart import ReferenceSegmenter, overlap_only, score_heart, score_original
from data.scoring.images import Reference, ceiling, cost, open_reference, score
from data.shards.reader import ShardReader
from modeling.titok import TiTok
from scripts.evaluation.baselines import Contender
from scripts.evaluation.coding import compress, decompress, tokens_in

Row = dict[str, Any]


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


@contextmanager
def noted(patient: str, reader: ShardReader, failed: dict[str, str] | None) -> Iterator[None]:
    """Note why a patient cannot be scored, so that it does not cost the others; without `failed`, raise it."""
    try:
        yield
    except Exception as error:
        reason = str(error).removeprefix(f"{patient}: ").replace(f"{reader.folder}/", "")  # no folder in a report
        reason = reason if isinstance(error, ValueError) else f"{type(error).__name__}: {reason}"
        if failed is None:
            raise ValueError(f"{patient}: {reason}") from error
        failed[patient] = reason


def evaluate(
    model: TiTok,
    reader: ShardReader,
    patients: Sequence[str],
    baselines: dict[str, Contender],
    segmenter: ReferenceSegmenter | None = None,
    keep: int | None = None,
    originals: dict[str, Row] | None = None,
    failed: dict[str, str] | None = None,
) -> list[Row]:
    """Score a model, and baselines on the same patients.

    Args:
        model: in eval mode on its device.
        reader: of the split.
        patients: whom to score.
        baselines: name -> what is scored in place of the model's reconstruction.
        segmenter: of originals and reconstructions; without one the heart is not scored.
        keep: how many tokens of each frame or cine are sent; all for None.
        originals: patient -> the segmenter's figures of the original; filled here, for other models of the same field.
        failed: patient -> why it cannot be scored; filled here. Without it, such a patient ends the evaluation.

    Returns:
        One row a patient that could be scored: figures of utils/report/evaluation.py, `curve`, and `baselines`:
        name -> its figures.

    Raises:
        ValueError: naming the patient that cannot be scored, without `failed`.
    """

    def packed() -> Iterator[tuple[Reference, bytes]]:
        for patient in tqdm(patients, desc="evaluating", unit="patient"):
            item = None
            with noted(patient, reader, failed):
                reference = open_reference(reader.read_case(patient), model.config.image_size, model.config.geometry)
                item = reference, compress(model, reference, keep)
            if item is not None:
                yield item

    originals = {} if originals is None else originals
    rows = []
    for reference, data, next_data in with_next(packed()):
        with noted(reference.case.patient, reader, failed):
            decoded = decompress(model, data)
            quality = score(reference, decoded)
            if segmenter:
                patient = reference.case.patient
                if patient not in originals:
                    originals[patient] = score_original(segmenter, reference)
                quality |= {**score_heart(segmenter, reference, decoded), **originals[patient]}
            against = {}
            for name, make in baselines.items():
                other = make(reference, data, next_data)
                overlap = overlap_only(segmenter, reference, other) if segmenter else {}
                against[name] = {**score(reference, other), **overlap}
            found = {
                **quality,
                **cost(reference, data),
                "tokens": tokens_in(data),
                "psnr_ceiling": ceiling(reference),
                "baselines": against,
            }
            slices, phases = reference.case.cine.shape[2:]
            who = {"patient": reference.case.patient, "group": reference.case.group}
            rows.append({**who, "slices": slices, "phases": phases, **found})
    return rows
