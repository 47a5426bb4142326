"""The results of an evaluation: rows of all models, and the summary with the notes that a reader needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.shards.reader import ShardReader
from scripts.evaluation.scoring import Row
from scripts.evaluation.segmenters import Opened
from utils.report.command import public_arguments
from utils.report.evaluation import summarize
from utils.report.tables import MARK


@dataclass
class Results:
    """Scores of all models on the same patients, the reported model last.

    Args:
        rows: model -> one row a patient.
        fields: model -> its field in words.
        leaks: model -> which ground truth it encodes; only models that do so.
        independent: model -> whether the reference segmenter was not used in its training.
        failed: patient -> why it cannot be scored.
        baselines: baseline of the reported model -> its description.
        without_rate: reconstructions of other methods without a list of sizes.
    """

    rows: dict[str, list[Row]] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    leaks: dict[str, str] = field(default_factory=dict)
    independent: dict[str, bool] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    baselines: dict[str, str] = field(default_factory=dict)
    without_rate: list[str] = field(default_factory=list)

    def keep_common_patients(self, patients: int) -> str:
        """Keep the rows of the patients that every model could score.

        Args:
            patients: number of patients of the evaluation.

        Returns:
            A sentence that names the other patients with the reasons; empty if there are none.

        Raises:
            ValueError: no patient is left.
        """
        named = "; ".join(f"{patient} ({reason})" for patient, reason in self.failed.items())
        if len(self.failed) == patients:
            raise ValueError(f"none of the {patients} patients could be scored: {named}")
        for name, rows in self.rows.items():
            self.rows[name] = [row for row in rows if row["patient"] not in self.failed]
        count = f"{len(self.failed)} of {patients} patients"
        return f"{count} could not be scored and are excluded from all metrics: {named}." if self.failed else ""


def segmenter_note(opened: Opened | None, independent: dict[str, bool]) -> str:
    """The sentences on the reference segmenter: its name, the method, and the models in whose training it was used."""
    if opened is None:
        return "Hearts are not scored: no --segmenter was given, and the last --model has none."
    note = (
        f"Hearts are scored by the segmenter of {opened.segmenter.name}, the same for originals, reconstructions and "
        "baselines. Dice and distances are computed against the ground truth inside the field; outside the field, the "
        "input of the segmenter is the original. Volumes and EF are compared with the whole ground truth. A structure "
        "that is absent in both segmentation and ground truth is left out; if it is absent in only one of them, Dice "
        "is 0 and the distance is the diagonal of the volume."
    )
    if not opened.segmenter.every_phase:
        note += " This segmenter segments only ED and ES, so there are no phase errors."
    dependent = [name for name, is_independent in independent.items() if not is_independent]
    if dependent:
        note += (
            f" {MARK} This segmenter was used in the training of {', '.join(dependent)} (losses, choice of ED "
            f"and ES, or anatomy tokens). The heart metrics marked with {MARK} are too favourable for that model; give "
            "an independent segmenter with --segmenter."
        )
    return note


def summary_of(
    results: Results, arguments: dict[str, Any], command: str, reader: ShardReader, opened: Opened | None, failure: str
) -> Row:
    """The content of summary.json.

    Args:
        results: of the patients that every model could score.
        arguments: of the command.
        command: as one line, see `command_line`.
        reader: of the split.
        opened: the reference segmenter, None without.
        failure: the sentence on patients that could not be scored; empty if there are none.
    """
    summary = {
        **summarize(results.rows, results.baselines),
        "data": reader.folder.resolve().name,
        "modality": reader.samples[0].info["modality"],
        "split": arguments["split"],
        "notes": [
            *_data_notes(results, arguments, len(reader.patients())),
            segmenter_note(opened, results.independent),
            *([failure] if failure else []),
            *(f"LEAK: {name}: {leak}" for name, leak in results.leaks.items()),
        ],
        "command": public_arguments(arguments),
        "command_line": command,
    }
    if opened is not None:
        summary["reference_segmenter"] = {"name": opened.segmenter.name, "independent_of": results.independent}
    summary["failed"] = [{"patient": patient, "reason": reason} for patient, reason in results.failed.items()]
    return summary


def _data_notes(results: Results, arguments: dict[str, Any], patients: int) -> list[str]:
    """What was compared: fields of the models, patients of the split, and a missing baseline."""
    model, model_field = list(results.fields.items())[-1]
    notes = [
        f"The field of {model} is {model_field}. Only voxels inside it are coded, scored and counted in the ratios.",
        "Native voxels are compared after the window of the volume is applied; padding is never scored.",
    ]
    if arguments["model"]:
        notes.append("All metrics of models are of images decoded from the bytes of the compressed file alone.")
    if arguments["recon_dir"]:
        names = ", ".join(Path(folder).name for folder in arguments["recon_dir"])
        notes.append(f"Read from NIfTI files of other methods: {names}. Their bits are the sizes in bytes.csv, if any.")
    if results.without_rate:
        notes.append(f"There is no bytes.csv, and therefore no rate, for {', '.join(results.without_rate)}.")
    for other, other_field in results.fields.items():
        if other_field != model_field:
            notes.append(f"The field of {other} differs: {other_field}. Its metrics are computed on other voxels.")
    limit = arguments["limit"]
    if limit is not None and limit < patients:
        notes.append(f"Only the first {limit} of {patients} patients of the split were evaluated.")
    if arguments["model"] and "mean_frame" not in results.baselines:
        notes.append("There is no mean_frame baseline: the train split is empty, or the images differ in size.")
    return notes
