"""Text files in UTF-8, or in UTF-16 or UTF-32 with a byte order mark."""

import codecs
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
