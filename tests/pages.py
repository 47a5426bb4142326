"""The elements of an HTML page, to prove that data adds none."""

from html.parser import HTMLParser

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
