"""Codecs and models on the same patients and the same native voxels: bytes, quality and heart metrics of each point.

Axes: h and w of the model's field, D slices, T phases.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
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
from scripts.evaluation.finished import Finished, model_hash
from scripts.evaluation.scoring import Row, recording_failure
from scripts.evaluation.segmenters import Opened
from scripts.files.codec import Rate, compress, reconstruct
from utils.clinical import Masks
from utils.metrics import cohort
from utils.report.rate_distortion import HEART, ORIGINAL, QUALITY

ORIGINAL_INPUTS = {"codec": ORIGINAL}
Coded = tuple[int, np.ndarray]  # bytes of a patient's field, and what they decode to: (D, T, h, w)


class Point(NamedTuple):
    """One method at one setting.

    Args:
        method: name of the codec or model.
        setting: with its quality, e.g. `CRF 35`; of a model, what it decodes or its rate.
        is_model: whether it is a model with one point and no curve.
        code: compresses a patient's field and decodes the bytes.
        inputs: what identifies codec or model and setting, for `Finished`.
    """

    method: str
    setting: str
    is_model: bool
    code: Callable[[Reference], Coded]
    inputs: dict[str, Any]


def points_of_codec(name: str, codec: Codec) -> list[Point]:
    """The ladder of a codec."""

    def at(setting: float) -> Callable[[Reference], Coded]:
        return lambda reference: code_slices(codec, reference.original, setting)

    return [
        Point(name, f"{codec.quality} {setting:g}", False, at(setting), {"codec": codec.title, "setting": setting})
        for setting in codec.ladder
    ]


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

    hashed = model_hash(model)
    if model.ladder is None:
        return [Point(name, "all tokens", True, at(None), {"model": hashed})]
    names = {"bytes_per_frame": "B a frame", "step": "step", "psnr": "dB"}
    points = []
    for weight, rate in itertools.product(heart_weights, rates):
        method = name if weight == 1 else f"{name} heart x{weight:g}"
        setting = ", ".join(f"{names[key]} {value:g}" for key, value in rate.items())
        rate = {**rate, "heart_weight": weight}
        points.append(Point(method, setting, False, at(rate), {"model": hashed, **rate}))
    return points


def taught_by(
    opened: Sequence[Opened], models: dict[str, TiTok], points: dict[str, list[Point]]
) -> dict[str, list[str]]:
    """Return for each segmenter the methods of the models in whose training it was used.

    Args:
        opened: the segmenters.
        models: by name.
        points: of each model; a ladder is one method for each weight of the heart.
    """
    return {
        one.segmenter.name: list(dict.fromkeys(
            point.method for name, model in models.items() if one.lineage & set(model.teachers())
            for point in points[name]
        ))
        for one in opened
    }  # fmt: skip


def measure(
    points: Sequence[Point],
    reader: ShardReader,
    patients: Sequence[str],
    field: tuple[int, str],
    segmenters: Sequence[ReferenceSegmenter],
    failed: dict[str, str],
    finished: Finished,
) -> list[Row]:
    """Code every patient at every point, and score what is decoded.

    Args:
        points: methods and settings.
        reader: of the split.
        patients: names of the patients.
        field: image size and geometry, see `open_reference`.
        segmenters: reference segmenters; without one, hearts are not scored.
        failed: patient -> why it cannot be coded or scored at one of the points; filled here.
        finished: results of an interrupted run, which are not computed again; each new result is kept there.

    Returns:
        One row for each point and each patient that succeeded at all points. `hearts` holds the heart metrics by each
        segmenter: name -> those of `score_labels` and `score_against_original`. With a segmenter also one row a patient
        of the method `original`, with the patient's group and the volumes of the ground truth (`truth`).
    """
    rows: list[Row] = []
    originals = [ORIGINAL_INPUTS] if segmenters else []
    wanted = [{"patient": name, **inputs} for name in patients for inputs in [*originals, *(p.inputs for p in points)]]
    finished.report(wanted)
    with tqdm(total=len(patients) * len(points), desc="coding", unit="point") as bar:
        for patient in patients:
            before = bar.n
            with recording_failure(patient, reader, failed):
                scorer, of_patient = Scorer(reader, patient, field, segmenters), list[Row]()
                if segmenters:
                    of_patient.append(_kept(finished, {"patient": patient, **ORIGINAL_INPUTS}, scorer.original))
                for point in points:
                    row = _kept(finished, {"patient": patient, **point.inputs}, partial(scorer.point, point))
                    of_patient.append({**row, "method": point.method, "setting": point.setting})
                    bar.update()
                rows += of_patient
            bar.update(before + len(points) - bar.n)
    return rows


def _kept(finished: Finished, inputs: dict[str, Any], compute: Callable[[], Row]) -> Row:
    """A row that was kept, or a new one, which is kept."""
    if (row := finished.load(inputs)) is None:
        row = compute()
        finished.save(inputs, row)
    return row


class Scorer:
    """One patient; it is read, and its original segmented, only when a row has to be computed.

    Args:
        reader: of the split.
        patient: its name.
        field: image size and geometry.
        segmenters: reference segmenters.
    """

    def __init__(
        self, reader: ShardReader, patient: str, field: tuple[int, str], segmenters: Sequence[ReferenceSegmenter]
    ) -> None:
        self.reader, self.patient, self.field, self.segmenters = reader, patient, field, segmenters

    @cached_property
    def reference(self) -> Reference:
        """The original of the patient."""
        return open_reference(self.reader.read_case(self.patient), *self.field)

    @cached_property
    def hearts(self) -> dict[str, Masks]:
        """Name of the segmenter -> segmented key frames of the original."""
        return {one.name: segment(one, self.reference, self.reference.original) for one in self.segmenters}

    def original(self) -> Row:
        """The row of the patient's original."""
        return _original(self.reference, self.hearts)

    def point(self, point: Point) -> Row:
        """The row of one point."""
        return score_point(point, self.reference, self.segmenters, self.hearts)


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
