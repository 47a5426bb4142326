"""Text files in UTF-8, or in UTF-16 or UTF-32 with a byte order mark."""

import codecs
import csv
import io
from collections.abc import Collection
from pathlib import Path

_MARKS = (  # UTF-32 first, since its mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: str | Path) -> str:
    """Read a text file in UTF-8, or in the encoding of its byte order mark; the mark is removed.

    Args:
        path: the file; line ends are not changed.
    Raises:
        ValueError: naming the file and the encoding, for bytes that are not text in this encoding.
    """
    data = Path(path).read_bytes()
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not text in {encoding.removesuffix('-sig').upper()} ({error.reason} at byte {error.start}); "
            "save it as UTF-8"
        ) from None
    if "\0" in text:
        raise ValueError(f"{path}: expected text in UTF-8, found zero bytes, as in UTF-16 without a mark; save it as "
                         "UTF-8")  # fmt: skip
    return text


def read_table(path: str | Path, needed: Collection[str]) -> list[dict[str, str]]:
    """Read a CSV file whose first line names the columns.

    Args:
        path: the file, see `read_text`.
        needed: columns that the file must have; the first one names the row, so it cannot be empty.
    Returns:
        The rows as {column: text without spaces around it}; empty lines are left out.
    Raises:
        ValueError: naming the file and the line, for a missing or repeated column, a row of more cells than columns,
            or a row without name.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), skipinitialspace=True)
    rows: list[dict[str, str]] = []
    try:
        columns = [name.strip() for name in next(reader, [])]
        if missing := [name for name in needed if name not in columns]:
            raise ValueError(f"{path}: has no column {missing[0]!r}, found {columns} in line 1; add it")
        if twice := sorted({name for name in columns if name and columns.count(name) > 1}):
            raise ValueError(f"{path}: has two columns {twice[0]!r}; remove one of them")
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            row = dict(zip(columns, cells, strict=False))
            if any(cells[len(columns) :]):
                count = f"{len(cells)} cells for {len(columns)} columns"
                raise ValueError(f"{path}: line {reader.line_num} has {count}; correct it")
            if not row.get(name := next(iter(needed)), ""):
                raise ValueError(f"{path}: line {reader.line_num} has no {name}; fill it in or remove the line")
            rows.append(row)
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num} cannot be read ({error}); correct it") from None
    return rows
