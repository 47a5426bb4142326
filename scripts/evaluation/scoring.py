"""Scores of a model and its baselines, patient by patient: each patient is compressed, decoded and compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from tqdm import tqdm

from data.scoring.heart import ReferenceSegmenter, overlap_only, score_heart, score_original
from data.scoring.images import Reference, ceiling, cost, score_grid
from data.shards.reader import ShardReader
from modeling.titok import TiTok
from scripts.evaluation.baselines import Baseline
from scripts.files.codec import compress, decode, open_for, read_tokens
from utils import ranks

Row = dict[str, Any]


def with_next(
    items: Iterable[tuple[Reference, bytes]], following: Iterable[tuple[Reference, bytes]] = ()
) -> Iterator[tuple[Reference, bytes, bytes]]:
    """Each patient with its file and the file of the next patient; holds two patients.

    Args:
        items: the patients of this rank.
        following: the patients after them; the last patient's next is the first of them, or else the first of `items`.
    """
    previous: tuple[Reference, bytes] | None = None
    first = b""
    for item in items:
        if previous is None:
            first = item[1]
        else:
            yield (*previous, item[1])
        previous = item
    if previous is not None:
        yield (*previous, next(iter(following), (None, first))[1])


@contextmanager
def recording_failure(patient: str, reader: ShardReader, failed: dict[str, str] | None) -> Iterator[None]:
    """Record in `failed` why a patient cannot be scored, so that the others still are; without `failed`, raise it."""
    try:
        yield
    except Exception as error:
        reason = str(error).removeprefix(f"{patient}: ").replace(f"{reader.folder}/", "")  # no folder in a report
        reason = reason if isinstance(error, ValueError) else f"{type(error).__name__}: {reason}"
        if failed is None:
            raise ValueError(f"{patient}: {reason}") from error
        failed[patient] = reason


def about(reference: Reference) -> Row:
    """Name, group, and numbers of slices and phases of a patient."""
    slices, phases = reference.case.cine.shape[2:]
    return {"patient": reference.case.patient, "group": reference.case.group, "slices": slices, "phases": phases}


def heart_metrics(
    segmenter: ReferenceSegmenter | None, reference: Reference, native: np.ndarray, originals: dict[str, Row]
) -> Row:
    """Compute the heart metrics of a reconstruction and of its original.

    Args:
        segmenter: reference segmenter; None for no heart metrics.
        reference: the original of the patient.
        native: (D, T, h, w) reconstruction in [0, 1], native pixels inside the field.
        originals: patient -> heart metrics of the original in this field; a new one is added.

    Returns:
        The metrics of `score_heart` and `score_original`; empty without a segmenter.
    """
    if segmenter is None:
        return {}
    if reference.case.patient not in originals:
        originals[reference.case.patient] = score_original(segmenter, reference)
    return {**score_heart(segmenter, reference, native), **originals[reference.case.patient]}


def evaluate(
    model: TiTok,
    reader: ShardReader,
    patients: Sequence[str],
    baselines: dict[str, Baseline],
    segmenter: ReferenceSegmenter | None = None,
    options: Row | None = None,
    originals: dict[str, Row] | None = None,
    failed: dict[str, str] | None = None,
) -> list[Row]:
    """Score a model, and baselines on the same patients; the patients are divided among the ranks.

    Args:
        model: in eval mode on its device.
        reader: of the split.
        patients: names of the patients to score.
        baselines: name -> function that gives the baseline's reconstruction.
        segmenter: reference segmenter of originals and reconstructions; without one, hearts are not scored.
        options: of `compress`: keep, the number of transmitted tokens, or the rate of a ladder.
        originals: patient -> heart metrics of the original; filled here and reused by models of the same field.
        failed: patient -> why it cannot be scored; filled here. If None, such a patient ends the evaluation.

    Returns:
        One row a patient that could be scored: the metrics of utils/report/columns.py, `curve` (PSNR of each phase),
        and `baselines`: name -> metrics.

    Raises:
        ValueError: a patient cannot be scored and `failed` is None.
    """

    def packed(names: Iterable[str], failures: dict[str, str] | None) -> Iterator[tuple[Reference, bytes]]:
        for patient in names:
            item = None
            with recording_failure(patient, reader, failures):
                reference = open_for(model, reader.read_case(patient))
                item = reference, compress(model, reference, **(options or {}))
            if item is not None:
                yield item

    originals = {} if originals is None else originals
    rows, failures = [], None if failed is None else dict[str, str]()
    begin, end = ranks.bounds(len(patients))
    own = packed(tqdm(patients[begin:end], desc="evaluating", unit="patient"), failures)
    following = packed([*patients[end:], *patients[:begin]], {})  # other ranks record their failures
    for reference, data, next_data in with_next(own, following):
        with recording_failure(reference.case.patient, reader, failures):
            tokens, header = read_tokens(model, data)
            decoded, quality = score_grid(reference, decode(model, tokens, header))
            baseline_metrics = {}
            for name, reconstruct in baselines.items():
                trivial, of_trivial = score_grid(reference, reconstruct(reference, data, next_data))
                overlap = overlap_only(segmenter, reference, trivial) if segmenter else {}
                baseline_metrics[name] = {**of_trivial, **overlap}
            row = {
                **about(reference),
                **quality,
                **heart_metrics(segmenter, reference, decoded, originals),
                **cost(reference, len(data)),
                **{
                    "tokens": header.layout.transmitted(tokens, header.slices, header.phases),
                    "psnr_ceiling": ceiling(reference),
                    "baselines": baseline_metrics,
                },
            }
            rows.append(row)
    return of_all_ranks(rows, patients, failures, failed)


def of_all_ranks(
    rows: list[Row], patients: Sequence[str], failures: dict[str, str] | None, failed: dict[str, str] | None
) -> list[Row]:
    """Gather the scores of all ranks.

    Args:
        rows: of this rank.
        patients: of all ranks, in order.
        failures: patient -> why this rank could not score it.
        failed: the same of all ranks; the new ones are added in the order of the patients.

    Returns:
        The rows of all ranks, in the order of the patients.
    """
    if failed is not None:
        failures_of_all = dict(ranks.gather(list((failures or {}).items())))
        failed.update({patient: failures_of_all[patient] for patient in patients if patient in failures_of_all})
    return ranks.gather(rows)
