"""Show what a token file (.tmri) holds: header and bits by part. Needs no model.

Research use only, not a medical device.

    python scripts/inspect_file.py cine.tmri
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.bitstream.coders import CODERS
from data.bitstream.container import VERSION, read_parts
from data.case import LENGTH_UNITS, TIME_UNITS
from data.preprocess import native_field
from utils.errors import user_errors
from utils.files import jsonable, user_path

CHECKSUM_BITS = 32


def describe(data: bytes) -> dict[str, Any]:
    """Return the header and the bits of each part of a compressed file as plain values.

    Raises:
        ValueError: not a token file, incomplete, damaged, or of another version.
    """
    parts = read_parts(data)
    header, layout = parts.header, parts.header.layout
    geometry, frames = header.geometry, header.slices * header.phases
    coder = CODERS[layout.name]
    bits = {"header": 8 * parts.head_bytes, **coder.budget(parts.payload, header), "checksum": CHECKSUM_BITS}
    return {
        "version": VERSION,
        "model": {"tokens_id": f"{header.tokens_id:016x}", "pixels_id": f"{header.pixels_id:08x}"},
        "layout": {
            "name": layout.name, "tokens": layout.num_tokens, "codebook_size": layout.codebook_size,
            "anatomy_tokens": layout.num_anatomy, "anatomy_codebook_size": layout.anatomy_codebook_size,
        },
        "coding": coder.describe(parts.payload),
        "token_table": None if parts.table_crc is None else f"{parts.table_crc:08x}",
        "cine": {"height": geometry.native_hw[0], "width": geometry.native_hw[1], "slices": header.slices,
                 "phases": header.phases, "dtype": header.dtype},
        "spacing_mm": list(header.spacing_mm),
        "length_unit": LENGTH_UNITS[header.length_unit],
        "time": {"step": header.time_step, "unit": TIME_UNITS[header.time_unit]},
        "scaling": {"slope": header.slope, "intercept": header.intercept},
        "window": list(header.window),
        "geometry": geometry.to_dict(),
        "outside_field": {"share": float(1 - native_field(geometry).mean()), "value": header.outside or 0.0},
        "bits": bits,
        "bytes": len(data),
        "bits_per_frame": 8 * len(data) / frames,
    }  # fmt: skip


def lines(content: dict[str, Any]) -> list[str]:
    """Return the description as lines of text."""
    rows = []
    rows += [f"{key:<16}{_text(value)}" for key, value in content.items() if key != "bits"]
    total = 8 * content["bytes"]
    rows.append(f"{'part':<16}{'bits':>10}{'share':>9}")
    rows += [f"{name:<16}{bits:>10}{100 * bits / total:>8.1f}%" for name, bits in content["bits"].items() if bits]
    return [*rows, f"{'sum':<16}{total:>10}"]


def _text(value: Any) -> str:
    """Return a value as text: numbers with at most six significant digits, lists without brackets."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return " ".join(_text(entry) for entry in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@user_errors()
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=user_path, metavar="FILE", help="a token file")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    if not args.file.is_file():
        problem = "is a folder; give one file" if args.file.is_dir() else "no such file"
        raise FileNotFoundError(f"{args.file}: {problem}")
    try:
        content = describe(args.file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{args.file}: {error}") from None
    print(json.dumps(jsonable(content), indent=2) if args.json else "\n".join(lines(content)))


if __name__ == "__main__":
    main()
