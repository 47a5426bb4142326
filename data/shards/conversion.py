"""From a data source to a folder of shards, in steps of one patient, so that a run that was cut off can go on.

    OUTPUT.partial/journal.jsonl      the plan, then a line a patient: its place in the shards, or why it was skipped
    OUTPUT.partial/train-000000.tar   shards that grow; behind the journal's last place they are not trusted
    OUTPUT/                           the same folder renamed, once all patients, manifest and fingerprint are in it

Every patient's line is on disk before the next one's, and the manifest is made of these lines alone. So a run that was
cut off anywhere and started again ends with the bytes of one that was not.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
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


@dataclass(frozen=True)
class Plan:
    """What is converted; equal plans over equal files give equal bytes.

    Args:
        source: makes the cases, see data/sources/.
        split: patient -> train, val or test, in the order of conversion.
        settings: what the run was asked for, `seed` among it, as plain values without paths; written to the manifest.
        shard_bytes: a shard that has reached this size takes no further patient.
        hidden: folders and files whose paths must not appear in what is written.
    """

    source: Any
    split: dict[str, str]
    settings: dict[str, Any]
    shard_bytes: int
    hidden: tuple[str, ...] = ()

    def header(self) -> dict[str, Any]:
        """The journal's first line."""
        return {
            "schema_version": SCHEMA_VERSION,
            "source": self.source.name,
            "settings": self.settings,
            "split": self.split,
        }


def is_done(plan: Plan, output_dir: Path) -> bool:
    """Whether `output_dir` holds just what this plan would write.

    Raises:
        ValueError: when it holds anything else.
    """
    if not output_dir.exists() or (output_dir.is_dir() and not any(output_dir.iterdir())):
        return False
    advice = "choose another --output_dir, or remove it yourself if it is no longer needed"
    if not (output_dir / "manifest.json").is_file():
        raise ValueError(f"{output_dir}: exists and holds no shards of this script; {advice}")
    manifest = read_manifest(output_dir)
    made_of = manifest.get("source", {})
    there = {"source": made_of.get("name"), "settings": manifest.get("settings")}
    _refuse_other_settings(output_dir, there, plan, advice)
    if made_of.get("patients") != {patient: hash_or_none(plan.source, patient) for patient in plan.split}:
        raise ValueError(f"{output_dir}: holds shards made from other source files; {advice}")
    (output_dir / JOURNAL).unlink(missing_ok=True)  # left where a run was killed between its last two steps
    return True


def convert(
    plan: Plan, output_dir: Path, workers: int = 1, strict: bool = False, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Convert all patients, or go on where an earlier run of the same plan was cut off.

    Args:
        plan: what to convert.
        output_dir: a new or empty folder, see `is_done`; until it is whole, its content stands in OUTPUT.partial.
        workers: processes.
        strict: stop at the first case that is refused instead of skipping it.
        say: is told what is taken over from an earlier run.
    Returns:
        The manifest.
    Raises:
        ValueError: when OUTPUT.partial is not of this plan or in use, when a case is refused and `strict`, or when no
            patient can be converted.
    """
    target = output_dir.resolve()  # of a link to another disk, the folder that it means
    partial = target.with_name(f"{target.name}.partial")
    if partial.exists() and any(partial.iterdir()) and not (partial / JOURNAL).is_file():
        raise ValueError(f"{partial}: exists and is not of this script; rename it, or choose another --output_dir")
    partial.mkdir(parents=True, exist_ok=True)
    with closing(Journal(partial / JOURNAL)) as journal:
        done = _resume(journal, plan, partial, strict, say)
        writer = ShardWriter(partial, plan.shard_bytes, _shards_of(journal.lines[1:]))
        with closing(outcomes(plan.source, list(plan.split)[done:], workers)) as converted:
            for outcome in tqdm(converted, total=len(plan.split), initial=done, unit="patient", desc="converting"):
                journal.append(_store(outcome, plan, writer, strict))
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


def _resume(journal: Journal, plan: Plan, partial: Path, strict: bool, say: Callable[[str], None]) -> int:
    """Check an earlier run's journal, cut off what is no longer true and whatever it does not know; patients kept."""
    if not journal.lines:
        journal.append(plan.header())
    advice = "repeat that command to go on with it, or remove the folder to begin anew"
    _refuse_other_settings(partial, journal.lines[0], plan, advice)
    if journal.lines[0] != json.loads(json.dumps(jsonable(plan.header()))):
        raise ValueError(f"{partial}: holds a conversion of other patients or of another version; {advice}")
    earlier = journal.lines[1:]
    checks = (_is_true(line, patient, plan, partial) for line, patient in zip(earlier, plan.split, strict=False))
    kept = next((index for index, true in enumerate(checks) if not true), len(earlier))
    if kept < len(earlier):
        say(f"{earlier[kept]['patient']}: its files have changed since it was converted; going on from before it")
    if strict:
        kept = next((index for index, line in enumerate(earlier[:kept]) if "reason" in line), kept)
    journal.keep(1 + kept)
    if kept:
        say(f"{partial}: going on after {kept} of {len(plan.split)} patients")
    known = {record["file"] for records in _shards_of(earlier[:kept]).values() for record in records}
    for path in partial.iterdir():
        if path.name not in {JOURNAL, *known}:
            path.unlink()
    return kept


def _is_true(line: dict[str, Any], patient: str, plan: Plan, partial: Path) -> bool:
    """Whether a line of an earlier run says what this run would find."""
    if line["patient"] != patient or line["source_hash"] != hash_or_none(plan.source, patient):
        return False
    if "reason" in line:
        return True
    name = line["shard"]["file"]
    if line["split"] != plan.split[patient] or not re.fullmatch(rf"{line['split']}-[0-9]{{6}}\.tar", name):
        return False
    return (partial / name).is_file() and (partial / name).stat().st_size >= line["shard"]["bytes"]


def _refuse_other_settings(folder: Path, there: dict[str, Any], plan: Plan, advice: str) -> None:
    """Raise where a folder was made by other settings, naming those that differ."""
    found, asked = ({"source": side.get("source"), **(side.get("settings") or {})} for side in (there, plan.header()))
    asked = json.loads(json.dumps(jsonable(asked)))
    if differing := [key for key in {**found, **asked} if found.get(key) != asked.get(key)]:
        named = ", ".join(f"{key} {found.get(key)!r} instead of {asked.get(key)!r}" for key in differing)
        raise ValueError(f"{folder}: was made with other settings ({named}); {advice}")


def _store(outcome: Outcome, plan: Plan, writer: ShardWriter, strict: bool) -> dict[str, Any]:
    """Put a patient into its shard; returns its line for the journal."""
    line = outcome.line
    if "reason" not in line:
        split = plan.split[line["patient"]]
        return {**line, "split": split, "shard": writer.add(split, outcome.members)}
    reason = line["reason"]
    for path in sorted(plan.hidden, key=len, reverse=True):
        reason = re.sub(rf"(?<![\w./-]){re.escape(path)}(?![\w-])/?", "", reason)
    if strict:
        raise ValueError(f"{line['patient']}: {reason}; mend it and repeat the command, which goes on from here")
    return {**line, "reason": reason}


def _shards_of(lines: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The shards as they stood after the last of the lines, by split."""
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
    """Let the finished folder appear under its name; its journal goes last, so that it can still be finished."""
    for path in [*partial.iterdir(), partial]:
        sync(path)
    try:
        os.rename(partial, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise ValueError(f"{target}: appeared during the conversion, which is whole in {partial}; move one") from error
    sync(target.parent)
    (target / JOURNAL).unlink()
