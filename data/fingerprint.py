"""Stub: the fingerprint of a cohort."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.case import CineCase
from utils.files import write_json, write_text


def case_record(case: CineCase) -> dict[str, Any]:
    """What one case is like, as plain JSON data."""
    return {"patient": case.patient, "shape": case.cine.shape}


def write_fingerprint(records: Sequence[dict[str, Any]], folder: Path, name: str) -> None:
    """Write fingerprint.json and fingerprint.html."""
    write_json(folder / "fingerprint.json", {"name": name, "cases": records})
    write_text(folder / "fingerprint.html", f"<title>{name}</title>\n")
