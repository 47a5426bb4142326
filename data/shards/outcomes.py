"""What becomes of each patient of a source, worked out by several processes and handed over in order."""

from __future__ import annotations

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
    """What became of one patient: its shard members, or the line that says why it is skipped."""

    members: list[tuple[str, bytes]]
    line: dict[str, Any]


def convert_patient(source: Any, patient: str) -> Outcome:
    """Read one patient and put it into shard members.

    Returns:
        The members, and a line of patient, source_hash, slices, frames and record (see cohort/fingerprint.py); of a
        case that is refused no members, and a line of patient, source_hash (None where unknown), rule and reason.
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
        "record": record,
    }
    return Outcome(members, line)


def outcomes(source: Any, patients: Sequence[str], workers: int) -> Generator[Outcome, None, None]:
    """Convert the patients in order, in `workers` processes; never more in memory than two patients a worker.

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
            raise ValueError("a worker was killed, probably for memory; try again with fewer --workers") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Let a worker end when its parent is killed; it would wait for ever to hand over its patient."""

    def wait() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def hash_or_none(source: Any, patient: str) -> str | None:
    """The hash of a patient's files, None where they cannot be read."""
    try:
        return str(source.source_hash(patient))
    except (ValueError, OSError):
        return None
