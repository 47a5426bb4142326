"""Convert a data source in parts, such as the jobs of a cluster, and merge the parts to one folder of shards.

    OUTPUT.parts/3-of-16/journal.jsonl      as in OUTPUT.partial, see data/shards/conversion.py
    OUTPUT.parts/3-of-16/train-000000.tar   the members of the patients of this part

Part K of N has every N-th patient of the plan, from the K-th on. The merge is the ordinary conversion, but it reads the
members of each patient from its part instead of converting the patient. So its bytes are those of one conversion.
"""

from __future__ import annotations

import io
import re
import shutil
import tarfile
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from data.shards.conversion import JOURNAL, Plan, convert, fill, open_journal, reading, refuse_other_plan
from data.shards.journal import complete_lines
from data.shards.outcomes import Outcome, hash_of_members, hash_or_none


class Part(NamedTuple):
    """Part `number` of `total`, from 1."""

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    def plan(self, whole: Plan) -> Plan:
        """Return the plan of the patients of this part."""
        patients = list(whole.split)[self.number - 1 :: self.total]
        return replace(whole, split={patient: whole.split[patient] for patient in patients})


class _Stored(NamedTuple):
    """A converted patient: the part and its folder, the line of the journal, and the first byte in the shard."""

    part: Part
    folder: Path
    line: dict[str, Any]
    start: int


def parse_part(text: str) -> Part:
    """Return the part that K/N names.

    Args:
        text: such as 3/16.
    Returns:
        The part.
    Raises:
        ValueError: for anything else.
    """
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    part = Part(int(match[1]), int(match[2])) if match else Part(0, 0)
    if not 1 <= part.number <= part.total:
        raise ValueError(f"--part is {text!r}, expected K/N with K from 1 to N, such as 3/16")
    return part


def parts_folder(output_dir: Path) -> Path:
    """Return the folder of the parts, OUTPUT.parts."""
    target = output_dir.resolve()
    return target.with_name(f"{target.name}.parts")


def convert_part(
    plan: Plan,
    output_dir: Path,
    part: Part,
    workers: int = 1,
    strict: bool = False,
    log: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Convert the patients of one part, or resume it.

    Args:
        plan: the whole conversion.
        output_dir: folder of the whole conversion; this part is written to OUTPUT.parts.
        part: the part.
        workers: number of processes.
        strict: stop at the first refused case instead of skipping it.
        log: prints which patients are kept from an earlier run.
    Returns:
        The lines of the journal, one for each patient of the part.
    Raises:
        ValueError: when the part was made with other settings or is in use, or when `strict` and a case is refused.
    """
    folder = parts_folder(output_dir) / f"{part.number}-of-{part.total}"
    with closing(open_journal(folder)) as journal:
        fill(journal, part.plan(plan), folder, strict, log, reading(plan, workers))
        return journal.lines[1:]


def merge_parts(
    plan: Plan, output_dir: Path, strict: bool = False, log: Callable[[str], None] = print
) -> dict[str, Any]:
    """Write the whole conversion from its parts, or resume an interrupted merge; the parts are kept.

    Args:
        plan: the whole conversion.
        output_dir: a new or empty folder, see `is_done`.
        strict: refuse parts with a skipped patient.
        log: prints which patients are kept from an interrupted merge.
    Returns:
        The manifest.
    Raises:
        FileNotFoundError: when there are no parts.
        ValueError: when a part, which is named, is missing, incomplete or damaged, or was made with other settings; or
            when `strict` and a patient was skipped.
    """
    stored: dict[str, _Stored] = {}
    for part, folder in _all_folders(parts_folder(output_dir)).items():
        stored |= _read_journal(plan, part, folder)

    def read(patients: Sequence[str]) -> Generator[Outcome, None, None]:
        yield from (_read_patient(plan, stored[patient]) for patient in patients)

    return convert(plan, output_dir, strict=strict, log=log, converted=read)


def remove_parts(output_dir: Path) -> None:
    """Remove the parts of a conversion that is complete."""
    folder = parts_folder(output_dir)
    for path in _folders(folder).values():
        shutil.rmtree(path)
    with suppress(OSError):  # files that are not from this script are kept
        folder.rmdir()


def _folders(folder: Path) -> dict[Part, Path]:
    """Return the folders of the parts, in order."""
    paths = folder.iterdir() if folder.is_dir() else ()
    matches = [(re.fullmatch(r"([0-9]+)-of-([0-9]+)", path.name), path) for path in paths if path.is_dir()]
    return dict(sorted((Part(int(match[1]), int(match[2])), path) for match, path in matches if match))


def _all_folders(folder: Path) -> dict[Part, Path]:
    """Return the folders of all parts; raise an error if some are missing."""
    folders = _folders(folder)
    if not folders:
        raise FileNotFoundError(f"{folder}: holds no parts; run the command with --part 1/N to N/N first")
    counts = sorted({part.total for part in folders})
    if len(counts) > 1:
        named = " and ".join(f"*-of-{count}" for count in counts)
        raise ValueError(f"{folder}: holds parts of several numbers of parts ({named}); remove all but those of one")
    missing = [part for part in (Part(k, counts[0]) for k in range(1, counts[0] + 1)) if part not in folders]
    if missing:
        named = ", ".join(map(str, missing))
        raise ValueError(f"{folder}: {len(missing)} of {counts[0]} parts are missing; run --part for {named}")
    return folders


def _read_journal(plan: Plan, part: Part, folder: Path) -> dict[str, _Stored]:
    """Return the patients of a part; raise an error if it is incomplete or was made with other settings."""
    lines: list[dict[str, Any]] = []
    if (folder / JOURNAL).is_file():
        with (folder / JOURNAL).open("rb") as stream:
            lines = [line for line, _ in complete_lines(stream)]
    expected = part.plan(plan)
    if lines:
        refuse_other_plan(folder, lines[0], expected, f"repeat --part {part} with these settings in an empty folder")
    if not lines or [line.get("patient") for line in lines[1:]] != list(expected.split):
        count = f"{max(0, len(lines) - 1)} of {len(expected.split)} patients"
        raise ValueError(f"{folder}: is not complete ({count}); repeat --part {part} to continue it")
    stored, ends = {}, dict[str, int]()
    for line in lines[1:]:
        start = 0
        if "shard" in line:
            file = line["shard"]["file"]
            start, ends[file] = ends.get(file, 0), line["shard"]["bytes"]
        stored[line["patient"]] = _Stored(part, folder, line, start)
    return stored


def _read_patient(plan: Plan, stored: _Stored) -> Outcome:
    """Read the members of a patient from the shard of its part, and check them."""
    line = {key: value for key, value in stored.line.items() if key not in ("split", "shard")}
    patient = line["patient"]
    if line["source_hash"] != hash_or_none(plan.source, patient):
        raise ValueError(f"{patient}: its files changed after the conversion; repeat --part {stored.part}")
    if "reason" in line:
        return Outcome([], line)
    path = stored.folder / stored.line["shard"]["file"]
    members: list[tuple[str, bytes]] = []
    with suppress(OSError, tarfile.TarError):  # without all members, the hash differs
        with path.open("rb") as shard:
            shard.seek(stored.start)
            content = io.BytesIO(shard.read(stored.line["shard"]["bytes"] - stored.start))
        with tarfile.open(fileobj=content, mode="r:") as tar:
            for member in tar:
                stream = tar.extractfile(member)
                members.append((member.name, stream.read() if stream else b""))
    if hash_of_members(members) != line["blake2b"]:
        advice = f"remove the folder {stored.folder.name} and repeat --part {stored.part}"
        raise ValueError(f"{path}: is damaged or missing ({patient}); {advice}")
    return Outcome(members, line)
