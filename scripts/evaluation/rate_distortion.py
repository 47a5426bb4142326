"""Codecs and models on the same patients and the same native voxels: bytes, quality and heart metrics of each point.

Axes: h and w of the model's field, D slices, T phases.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from data.codecs._common import Codec
from data.scoring.heart import (
    ReferenceSegmenter,
    score_against_original,
    score_labels,
    segment,
    true_function,
)
from data.scoring.images import Reference, native_cost, open_reference, score_native
from data.shards.reader import ShardReader
from modeling.titok import TiTok
from scripts.evaluation.scoring import Row, recording_failure
from scripts.files.codec import Rate, compress, reconstruct
from utils.clinical import Masks
from utils.metrics import cohort
from utils.report.rate_distortion import HEART, ORIGINAL, QUALITY

Coded = tuple[int, np.ndarray]  # bytes of a patient's field, and what they decode to: (D, T, h, w)


class Point(NamedTuple):
    """One method at one setting.

    Args:
        method: name of the codec or model.
        setting: with its quality, e.g. `CRF 35`; of a model, what it decodes or its rate.
        is_model: whether it is a model with one point and no curve.
        code: compresses a patient's field and decodes the bytes.
    """

    method: str
    setting: str
    is_model: bool
    code: Callable[[Reference], Coded]


def points_of_codec(name: str, codec: Codec) -> list[Point]:
    """The ladder of a codec."""

    def at(setting: float) -> Callable[[Reference], Coded]:
        return lambda reference: code_slices(codec, reference.original, setting)

    return [Point(name, f"{codec.quality} {setting:g}", False, at(setting)) for setting in codec.ladder]


def code_slices(codec: Codec, original: np.ndarray, setting: float) -> Coded:
    """Compress each slice's cine of (D, T, h, w) by itself, and decode the bytes."""
    size, decoded = 0, np.empty_like(original)
    for z, cine in enumerate(original):
        parts = codec.encode(cine, setting)
        size += sum(map(len, parts))
        decoded[z] = codec.decode(parts, (cine.shape[1], cine.shape[2]))
    return size, decoded


def points_of_model(name: str, model: TiTok, rates: Sequence[Rate], heart_weights: Sequence[float]) -> list[Point]:
    """A model with all its tokens; a ladder at each rate, as one method for each weight of the heart."""

    def at(rate: Rate | None) -> Callable[[Reference], Coded]:
        def code(reference: Reference) -> Coded:
            data = compress(model, reference, rate=rate)
            return len(data), reconstruct(model, reference, data)

        return code

    if model.ladder is None:
        return [Point(name, "all tokens", True, at(None))]
    names = {"bytes_per_frame": "B a frame", "step": "step", "psnr": "dB"}
    points = []
    for weight, rate in itertools.product(heart_weights, rates):
        method = name if weight == 1 else f"{name} heart x{weight:g}"
        setting = ", ".join(f"{names[key]} {value:g}" for key, value in rate.items())
        points.append(Point(method, setting, False, at({**rate, "heart_weight": weight})))
    return points


def measure(
    points: Sequence[Point],
    reader: ShardReader,
    patients: Sequence[str],
    field: tuple[int, str],
    segmenters: Sequence[ReferenceSegmenter],
    failed: dict[str, str],
) -> list[Row]:
    """Code every patient at every point, and score what is decoded.

    Args:
        points: methods and settings.
        reader: of the split.
        patients: names of the patients.
        field: image size and geometry, see `open_reference`.
        segmenters: reference segmenters; without one, hearts are not scored.
        failed: patient -> why it cannot be coded or scored at one of the points; filled here.

    Returns:
        One row for each point and each patient that succeeded at all points. `hearts` holds the heart metrics by each
        segmenter: name -> those of `score_labels` and `score_against_original`. With a segmenter also one row a patient
        of the method `original`, with the patient's group and the volumes of the ground truth (`truth`).
    """
    rows = []
    with tqdm(total=len(patients) * len(points), desc="coding", unit="point") as bar:
        for patient in patients:
            before = bar.n
            with recording_failure(patient, reader, failed):
                reference, of_patient = open_reference(reader.read_case(patient), *field), []
                hearts = {one.name: segment(one, reference, reference.original) for one in segmenters}
                if segmenters:
                    of_patient.append(_original(reference, hearts))
                for point in points:
                    of_patient.append(score_point(point, reference, segmenters, hearts))
                    bar.update()
                rows += of_patient
            bar.update(before + len(points) - bar.n)
    return rows


def _original(reference: Reference, hearts: Mapping[str, Masks]) -> Row:
    """The row of a patient's original."""
    scored = {name: score_labels(reference, labels) for name, labels in hearts.items()}
    case = reference.case
    place = {"method": ORIGINAL, "setting": "", "patient": case.patient, "group": case.group}
    return {**place, "truth": true_function(case), **_shown(scored), "hearts": scored}


def score_point(
    point: Point, reference: Reference, segmenters: Sequence[ReferenceSegmenter], originals: Mapping[str, Masks]
) -> Row:
    """One patient at one point.

    Args:
        point: method and setting.
        reference: the original of the patient.
        segmenters: reference segmenters.
        originals: name of the segmenter -> segmented key frames of the original.
    """
    size, decoded = point.code(reference)
    place = {"method": point.method, "setting": point.setting, "patient": reference.case.patient}
    quality = {**native_cost(reference, size), **score_native(reference, decoded)}
    hearts = {}
    for segmenter in segmenters:
        labels, original = segment(segmenter, reference, decoded), originals[segmenter.name]
        own = score_against_original(reference, original, labels)
        hearts[segmenter.name] = {**score_labels(reference, labels), **own}
    return {**place, **{key: quality[key] for key in QUALITY}, **_shown(hearts), "hearts": hearts}


def _shown(hearts: Mapping[str, Row]) -> Row:
    """The heart metrics of the report's table, by the first segmenter."""
    first = next(iter(hearts.values()), {})
    return {key: first[key] for key in HEART if key in first}


def means(rows: Sequence[Row], points: Sequence[Point]) -> tuple[list[Row], dict[str, Any]]:
    """Means over patients.

    Returns:
        One row a point, in the order of the points; and the means of the original, empty without a segmenter.
    """
    table = []
    for point in points:
        of_point = [row for row in rows if (row["method"], row["setting"]) == (point.method, point.setting)]
        place = {"method": point.method, "setting": point.setting, "model": point.is_model}
        table.append({**place, **_means(of_point)})
    return table, _means([row for row in rows if row["method"] == ORIGINAL])


def _means(rows: Sequence[Row]) -> Row:
    summary = cohort(rows, (*QUALITY, *HEART))
    known = {key: value for key, value in summary["mean"].items() if summary["n_of"][key]}
    return {key: value if math.isfinite(value) else None for key, value in known.items()}
