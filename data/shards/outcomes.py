"""Convert the patients of a source in several processes, in order."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from data.cohort.fingerprint import case_record
from data.preprocess import place
from data.shards.samples import serialize


class Outcome(NamedTuple):
    """Result of the conversion of one patient: its shard members and its line of the journal."""

    members: list[tuple[str, bytes]]
    line: dict[str, Any]


def convert_patient(source: Any, patient: str) -> Outcome:
    """Read one patient and convert it to shard members.

    Args:
        source: reads the cases, see data/sources/.
        patient: name of the patient.
    Returns:
        The members, and a line with patient, source_hash, slices, frames, blake2b (see `hash_of_members`) and record
        (see cohort/fingerprint.py). For a refused case: no members, and a line with patient, source_hash (None if
        unknown), rule and reason.
    """
    try:
        case = source.load(patient)
        placement = place(case)
        members = serialize(case, source.modality, placement)
        record = case_record(case, placement)
    except (ValueError, OSError) as error:
        reason = str(error)
        if isinstance(error, OSError) and error.strerror:
            reason = f"{Path(str(error.filename)).name}: {error.strerror}"
        line = {
            "patient": patient,
            "source_hash": hash_or_none(source, patient),
            "rule": getattr(error, "rule", "unreadable"),
            "reason": reason.removeprefix(f"{patient}: "),
        }
        return Outcome([], line)
    slices, phases = case.cine.shape[2:]
    line = {
        "patient": patient,
        "source_hash": case.source_hash,
        "slices": slices,
        "frames": slices * phases,
        "blake2b": hash_of_members(members),
        "record": record,
    }
    return Outcome(members, line)


def hash_of_members(members: Sequence[tuple[str, bytes]]) -> str:
    """Return the BLAKE2b of names and contents, 16 bytes in hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for name, data in members:
        digest.update(f"{name} {len(data)} ".encode())
        digest.update(data)
    return digest.hexdigest()


def outcomes(source: Any, patients: Sequence[str], workers: int) -> Generator[Outcome, None, None]:
    """Convert the patients in order, with at most two patients per worker in memory.

    Args:
        source: reads the cases, see data/sources/.
        patients: names of the patients.
        workers: number of processes.
    Returns:
        Iterator over the results, in the order of `patients`.
    Raises:
        ValueError: when a worker was killed.
    """
    workers = min(workers, len(patients))
    if workers <= 1:
        yield from (convert_patient(source, patient) for patient in patients)
        return
    pending: deque[Future[Outcome]] = deque()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        try:
            for patient in patients:
                if len(pending) >= 2 * workers:
                    yield pending.popleft().result()
                pending.append(pool.submit(convert_patient, source, patient))
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise ValueError(
                "a worker was killed, probably because memory ran out; repeat with fewer --workers"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """End a worker when its parent is killed; without this it would wait forever to return its patient."""

    def wait() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def hash_or_none(source: Any, patient: str) -> str | None:
    """Return the hash of a patient's files, or None if they cannot be read."""
    try:
        return str(source.source_hash(patient))
    except (ValueError, OSError):
        return None
