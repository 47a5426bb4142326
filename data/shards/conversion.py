"""Convert a data source to a folder of shards, patient by patient; an interrupted run can be resumed.

    OUTPUT.partial/journal.jsonl      the plan, then one line per patient: its shard, or the reason for skipping it
    OUTPUT.partial/train-000000.tar   growing shards; bytes after the last position in the journal are discarded
    OUTPUT/                           the same folder, renamed when all patients, manifest and fingerprint are written

The line of each patient is on disk before the next line is written. The manifest is built from these lines alone. So a
run that was interrupted and resumed writes the same bytes as a run without interruption.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.cohort.fingerprint import write_fingerprint
from data.shards.journal import Journal
from data.shards.manifest import NOTICE, SCHEMA_VERSION, SPLITS, read_manifest
from data.shards.outcomes import Outcome, hash_or_none, outcomes
from data.shards.reader import ShardWriter
from utils.files import jsonable, sync, write_json

JOURNAL = "journal.jsonl"
Convert = Callable[[Sequence[str]], Generator[Outcome, None, None]]  # patients -> their results, in order


@dataclass(frozen=True)
class Plan:
    """What is converted: equal plans and equal source files give equal bytes.

    Args:
        source: reads the cases, see data/sources/.
        split: patient -> train, val or test, in the order of conversion.
        settings: options of the run, including `seed`, as plain values without paths; written to the manifest.
        shard_bytes: size in bytes at which a shard is full and the next shard begins.
        hidden: paths of folders and files that are removed from all messages that are written.
    """

    source: Any
    split: dict[str, str]
    settings: dict[str, Any]
    shard_bytes: int
    hidden: tuple[str, ...] = ()

    def header(self) -> dict[str, Any]:
        """Return the first line of the journal."""
        return {
            "schema_version": SCHEMA_VERSION,
            "source": self.source.name,
            "settings": self.settings,
            "split": self.split,
        }


def is_done(plan: Plan, output_dir: Path, strict: bool = False) -> bool:
    """Return whether `output_dir` already holds the finished conversion of this plan.

    Args:
        plan: the conversion.
        output_dir: output folder.
        strict: whether a conversion that skipped patients is refused.
    Returns:
        True if nothing is left to do; False if the folder is empty or does not exist.
    Raises:
        ValueError: when the folder holds anything else, or when `strict` and it was written without a patient.
    """
    if not output_dir.exists() or (output_dir.is_dir() and not any(output_dir.iterdir())):
        return False
    advice = "choose another --output_dir, or remove this folder if it is no longer needed"
    if not (output_dir / "manifest.json").is_file():
        raise ValueError(f"{output_dir}: exists, but has no manifest.json of this script; {advice}")
    manifest = read_manifest(output_dir)
    source = manifest.get("source")
    if not isinstance(source, dict) or not isinstance(manifest.get("settings"), dict):
        raise ValueError(f"{output_dir}/manifest.json: has no source and settings of this script; {advice}")
    existing = {"source": source.get("name"), "settings": manifest.get("settings")}
    _refuse_other_settings(output_dir, existing, plan, advice)
    if source.get("patients") != {patient: hash_or_none(plan.source, patient) for patient in plan.split}:
        raise ValueError(f"{output_dir}: holds shards of other source files; {advice}")
    if strict and manifest["skipped"]:
        first, count = manifest["skipped"][0], len(manifest["skipped"])
        raise ValueError(
            f"{output_dir}: is complete without {count} of {len(plan.split)} patients, which --strict does not allow; "
            f"the first is {first['patient']}: {first['reason']}; correct them, and {advice}"
        )
    (output_dir / JOURNAL).unlink(missing_ok=True)  # remains if a run was killed between its last two steps
    return True


def convert(
    plan: Plan,
    output_dir: Path,
    workers: int = 1,
    strict: bool = False,
    log: Callable[[str], None] = print,
    converted: Convert | None = None,
) -> dict[str, Any]:
    """Convert all patients, or resume an interrupted run of the same plan.

    Args:
        plan: what to convert.
        output_dir: a new or empty folder, see `is_done`; the content is written to OUTPUT.partial until it is complete.
        workers: number of processes.
        strict: stop at the first refused case instead of skipping it.
        log: prints which patients are kept from an earlier run.
        converted: gives patients that are already converted; None to read them from the source.
    Returns:
        The manifest.
    Raises:
        ValueError: when OUTPUT.partial belongs to another plan or is in use, when `strict` and a case is refused, or
            when no patient can be converted.
    """
    target = output_dir.resolve()  # a link to another disk is replaced by its target
    partial = target.with_name(f"{target.name}.partial")
    with closing(open_journal(partial)) as journal:
        writer = fill(journal, plan, partial, strict, log, converted or reading(plan, workers))
        lines = journal.lines[1:]
        if all("reason" in line for line in lines):
            shutil.rmtree(partial)
            reasons = "; ".join(f"{line['patient']}: {line['reason']}" for line in lines[:3])
            raise ValueError(f"none of the {len(lines)} patients could be converted, so nothing was written: {reasons}")
        manifest = _manifest(plan, lines, writer.close())
        write_fingerprint([line["record"] for line in lines if "record" in line], partial, plan.source.name)
        write_json(partial / "manifest.json", manifest)
        _rename(partial, target)
    return manifest


def reading(plan: Plan, workers: int) -> Convert:
    """Return the function that reads patients from the source and converts them, in `workers` processes."""
    return lambda patients: outcomes(plan.source, patients, workers)


def open_journal(folder: Path) -> Journal:
    """Open the journal of an unfinished conversion, or start one in a new or empty folder.

    Args:
        folder: the folder.
    Returns:
        The journal; other processes are refused until it is closed.
    Raises:
        ValueError: when the folder holds anything else, or is in use.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / JOURNAL).is_file():
        raise ValueError(
            f"{folder}: exists and was not written by this script; rename it, or choose another --output_dir"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return Journal(folder / JOURNAL)


def fill(
    journal: Journal, plan: Plan, folder: Path, strict: bool, log: Callable[[str], None], converted: Convert
) -> ShardWriter:
    """Write the patients of a plan that the journal does not list to the shards of its folder, and list them.

    Args:
        journal: of the folder.
        plan: what to convert.
        folder: folder of the shards.
        strict: stop at the first refused case instead of skipping it.
        log: prints which patients are kept from an earlier run.
        converted: gives the results of patients.
    Returns:
        The writer of the shards; they are not closed.
    Raises:
        ValueError: when the folder belongs to another plan, or when `strict` and a case is refused.
    """
    done = _resume(journal, plan, folder, strict, log)
    writer = ShardWriter(folder, plan.shard_bytes, _shards_of(journal.lines[1:]))
    with closing(converted(list(plan.split)[done:])) as results:
        for outcome in tqdm(results, total=len(plan.split), initial=done, unit="patient", desc="converting"):
            journal.append(_store(outcome, plan, writer, strict))
    return writer


def _resume(journal: Journal, plan: Plan, partial: Path, strict: bool, log: Callable[[str], None]) -> int:
    """Discard outdated lines of an earlier run and unlisted files; return the number of patients kept."""
    if not journal.lines:
        journal.append(plan.header())
    advice = "repeat the earlier command to resume it, or remove the folder to start again"
    refuse_other_plan(partial, journal.lines[0], plan, advice)
    earlier = journal.lines[1:]
    checks = (_is_current(line, patient, plan, partial) for line, patient in zip(earlier, plan.split, strict=False))
    kept = next((index for index, current in enumerate(checks) if not current), len(earlier))
    if kept < len(earlier):
        log(
            f"{earlier[kept]['patient']}: its files changed after the conversion; converting again from this patient on"
        )
    if strict:
        kept = next((index for index, line in enumerate(earlier[:kept]) if "reason" in line), kept)
    journal.keep(1 + kept)
    if kept:
        log(f"{partial}: resuming after {kept} of {len(plan.split)} patients")
    listed = {record["file"] for records in _shards_of(earlier[:kept]).values() for record in records}
    for path in partial.iterdir():
        if path.name not in {JOURNAL, *listed}:
            path.unlink()
    return kept


def _is_current(line: dict[str, Any], patient: str, plan: Plan, partial: Path) -> bool:
    """Return whether a line of an earlier run is what this run would write."""
    if line["patient"] != patient or line["source_hash"] != hash_or_none(plan.source, patient):
        return False
    if "reason" in line:
        return True
    name = line["shard"]["file"]
    if line["split"] != plan.split[patient] or not re.fullmatch(rf"{line['split']}-[0-9]{{6}}\.tar", name):
        return False
    return (partial / name).is_file() and (partial / name).stat().st_size >= line["shard"]["bytes"]


def refuse_other_plan(folder: Path, header: dict[str, Any], plan: Plan, advice: str) -> None:
    """Raise an error if a folder, whose journal begins with `header`, does not belong to the plan."""
    _refuse_other_settings(folder, header, plan, advice)
    if header != json.loads(json.dumps(jsonable(plan.header()))):
        raise ValueError(f"{folder}: holds a conversion of other patients or of another schema version; {advice}")


def _refuse_other_settings(folder: Path, header: dict[str, Any], plan: Plan, advice: str) -> None:
    """Raise an error with the names and values of all settings that differ between a folder and the plan."""
    existing, requested = (
        {"source": part.get("source"), **(part.get("settings") or {})} for part in (header, plan.header())
    )
    requested = json.loads(json.dumps(jsonable(requested)))
    if differing := [key for key in {**existing, **requested} if existing.get(key) != requested.get(key)]:
        named = ", ".join(f"{key} {existing.get(key)!r} instead of {requested.get(key)!r}" for key in differing)
        raise ValueError(f"{folder}: was made with other settings ({named}); {advice}")


def _store(outcome: Outcome, plan: Plan, writer: ShardWriter, strict: bool) -> dict[str, Any]:
    """Write a patient to its shard and return its line of the journal."""
    line = outcome.line
    if "reason" not in line:
        split = plan.split[line["patient"]]
        return {**line, "split": split, "shard": writer.add(split, outcome.members)}
    reason = line["reason"]
    for path in sorted(plan.hidden, key=len, reverse=True):
        reason = re.sub(rf"(?<![\w./-]){re.escape(path)}(?![\w-])/?", "", reason)
    if strict:
        raise ValueError(f"{line['patient']}: {reason}; correct it and repeat the command to resume")
    return {**line, "reason": reason}


def _shards_of(lines: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the shards of each split after the last of the lines."""
    shards: dict[str, dict[str, dict[str, Any]]] = {split: {} for split in SPLITS}
    for line in lines:
        if "shard" in line:
            shards[line["split"]][line["shard"]["file"]] = dict(line["shard"])
    return {split: list(records.values()) for split, records in shards.items()}


def _manifest(plan: Plan, lines: Sequence[dict[str, Any]], shards: dict[str, Any]) -> dict[str, Any]:
    converted = [line for line in lines if "reason" not in line]
    split = {name: [line["patient"] for line in converted if line["split"] == name] for name in SPLITS}
    counts = {
        name: {
            "patients": len(split[name]),
            **{unit: sum(line[unit] for line in converted if line["split"] == name) for unit in ("slices", "frames")},
        }
        for name in SPLITS
    }
    skipped = [{key: line[key] for key in ("patient", "rule", "reason")} for line in lines if "reason" in line]
    hashes = {line["patient"]: line["source_hash"] for line in lines}
    return {
        "schema_version": SCHEMA_VERSION, "notice": NOTICE, "counts": counts, "split": split,
        "source": {"name": plan.source.name, "patients": hashes}, "settings": plan.settings,
        "seed": plan.settings["seed"], "shards": shards, "skipped": skipped,
    }  # fmt: skip


def _rename(partial: Path, target: Path) -> None:
    """Rename the finished folder; remove the journal last, so that an interruption before it can be repaired."""
    for path in [*partial.iterdir(), partial]:
        sync(path)
    try:
        os.rename(partial, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise ValueError(
            f"{target}: appeared during the conversion; the complete result is in {partial}; rename one of them"
        ) from error
    sync(target.parent)
    (target / JOURNAL).unlink()
