"""The elements of an HTML page, to prove that data adds none; and figures that are not drawn."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

from utils.report.drawing import figures, overlays, plots

PLAIN = "plain"
HOSTILE = """"></td></p></pre><script>alert('x')</script><img src=x onerror="y"> & 'quoted'"""

Element = tuple[str, tuple[str, ...]]  # tag, names of its attributes


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.elements: list[Element] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.elements.append((f"/{tag}", ()))


def elements_of(html: str) -> list[Element]:
    """The tags of a page in order, with the names of their attributes."""
    parser = _Elements()
    parser.feed(html)
    parser.close()
    return parser.elements


def draw_no_figures(patch: pytest.MonkeyPatch) -> None:
    """Let the functions that draw the figures of a report write an empty file and return an empty SVG."""

    def draw(path: Path, *_: object) -> bytes:
        path.write_bytes(b"")
        return b"<svg/>"

    drawing = {figures: ("frames", "profile"), plots: ("phase_curve", "rates"), overlays: ("overlays", "agreement")}
    for module, kinds in drawing.items():
        for kind in kinds:
            patch.setattr(module, f"draw_{kind}", draw)
