"""Functions shared by the sources that read files: tables of cases, numbers in text, hashes, empty frames."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data.case import CaseRefused, CineCase
from utils.text import read_table

BROKEN_LINK = "a broken link"


def check_folder(input_dir: Path) -> None:
    """Refuse an input folder that does not exist.

    Raises:
        FileNotFoundError: naming it.
    """
    if not input_dir.is_dir():
        raise FileNotFoundError(f"{input_dir}: no such folder; give the folder that holds the dataset")


def add_once(paths: dict[str, Path], patient: str, path: Path) -> None:
    """Add the path of a patient.

    Raises:
        ValueError: if the patient already has another path.
    """
    if patient in paths:
        raise ValueError(f"{patient} exists twice, {paths[patient]} and {path}; remove or rename one of them")
    paths[patient] = path


def files_below(root: Path) -> tuple[list[Path], dict[str, str]]:
    """All files below a folder, including those in linked folders and broken links.

    Args:
        root: the folder.
    Returns:
        The files, sorted, links last; and folders that were not opened: path below root -> reason.
    """
    files: list[Path] = []
    unread: dict[str, str] = {}
    entered = {os.path.realpath(root): "the input folder"}  # a link may point to a folder above it

    def refused(error: OSError) -> None:
        unread[below(root, Path(error.filename))] = f"cannot be opened: {error.strerror}"

    for place, folders, leaves in os.walk(root, followlinks=True, onerror=refused):
        files += [Path(place, leaf) for leaf in leaves]
        known, folders[:] = sorted(folders), []
        for name in known:
            path, real = Path(place, name), os.path.realpath(Path(place, name))
            if name.startswith("."):
                unread[below(root, path)] = "a hidden folder"
            elif real in entered:
                unread[below(root, path)] = f"the same folder as {entered[real]}"
            else:
                entered[real] = below(root, path)
                folders.append(name)
    return sorted(files, key=lambda path: (path.is_symlink(), path)), unread


def below(root: Path, path: Path) -> str:
    """A path relative to root."""
    return path.relative_to(root).as_posix()


def is_broken_link(path: Path) -> bool:
    """Whether a path is a broken link."""
    return path.is_symlink() and not path.exists()


def entries_but(
    parents: Iterable[Path], known: Iterable[Path], root: Path, what: str = "not a folder of a patient"
) -> dict[str, str]:
    """Entries of folders that are not among the known paths.

    Args:
        parents: the folders; those that cannot be opened are left to the reader of the patient.
        known: paths that are read.
        root: the input folder.
        what: description of the other entries.
    Returns:
        path below root -> description.
    """
    read = set(known)
    odd = (path for parent in parents if parent.is_dir() for path in sorted(parent.iterdir()) if path not in read)
    return {below(root, path): BROKEN_LINK if is_broken_link(path) else what for path in odd}


def read_rows(path: Path, key: str) -> dict[str, dict[str, str]]:
    """Read a CSV file with one row a case.

    Args:
        path: the file; its first line holds the names of the columns.
        key: the column with the name of the case.
    Returns:
        name -> {column: text}, without empty cells.
    Raises:
        ValueError: when the file is not a table (utils/text.py), or a case has two rows.
    """
    table: dict[str, dict[str, str]] = {}
    for row in read_table(path, (key,)):
        if row[key] in table:
            raise ValueError(f"{path.name}: has two rows for {row[key]}; remove one of them")
        table[row[key]] = {column: text for column, text in row.items() if column and text}
    return table


def phase_of(row: dict[str, str], key: str, where: str, patient: str) -> int | None:
    """The zero-based phase in a row of a table, None if the cell is empty.

    Args:
        row: the row.
        key: the column.
        where: the table's file name, for the refusal.
        patient: the patient of the row.
    Raises:
        CaseRefused: when the cell is not a whole number from 0.
    """
    if key not in row:
        return None
    if not re.fullmatch(r"[0-9]{1,9}(\.0*)?", row[key]):  # some programs write 7.0 for 7
        message = f"{where} has {key}={row[key]:.80}, expected a phase counted from 0; correct it or leave it empty"
        raise CaseRefused("no_key_frame", patient, message)
    return int(float(row[key]))


def measure(text: str | None) -> float | None:
    """A positive number in text, None if there is none."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def hash_files(paths: Iterable[Path], row: dict[str, str] | None = None) -> str:
    """blake2b over names, sizes and bytes of files, and over the row of a patient in a table."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    digest.update(repr(sorted(row.items())).encode() if row else b"")
    return digest.hexdigest()


def refuse_empty_frames(case: CineCase) -> None:
    """Refuse a case with a frame of one constant value, such as padding or a missing phase.

    Raises:
        CaseRefused: with the number of such frames and the position of the first.
    """
    empty = np.argwhere(case.cine.min(axis=(0, 1)) == case.cine.max(axis=(0, 1)))
    if len(empty):
        z, t = (int(i) for i in empty[0])
        first = f"{len(empty)} frames are empty, the first at slice {z}, phase {t} (zero-based)"
        raise CaseRefused("empty_frame", case.patient, f"{first}; re-download the case or exclude it")
