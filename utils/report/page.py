"""One self-contained HTML page: its frame, its style, and the pieces that every report is put together from."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from typing import Any


def text(value: Any) -> str:
    """A value as text that means nothing to a browser, also inside quotes."""
    return html.escape(str(value))


def page(title: str, lead: str, warning: str, body: Iterable[str]) -> str:
    """A whole page that needs no other file.

    Args:
        title: plain text, as are the next two.
        lead: what the page is about, in a sentence.
        warning: what a reader must not take it for.
        body: pieces of HTML in order.

    Returns:
        HTML text.
    """
    head = f"<meta charset=utf-8><title>{text(title)}</title>{VIEWPORT}<style>{STYLE}</style>"
    top = f"<h1>{text(title)}</h1><p class=lead>{text(lead)}</p><p class=warning>{text(warning)}</p>"
    main = f"<header>{top}</header>{''.join(body)}"
    return f"<!doctype html><html lang=en><head>{head}</head><body><main>{main}</main></body></html>\n"


def tiles(figures: Iterable[tuple[str, str]]) -> str:
    """Figures in large type, each as (figure, what it is)."""
    shown = (f"<div><b>{text(figure)}</b><span>{text(name)}</span></div>" for figure, name in figures)
    return f"<section class=tiles>{''.join(shown)}</section>"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], mark: str | None = None) -> str:
    """A table of plain texts, first column to the left; rows that begin with `mark` stand out."""
    head = "".join(f"<th>{text(heading)}</th>" for heading in headings)
    lines = [
        f"<tr{' class=mark' if row[0] == mark else ''}>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>"
        for row in rows
    ]
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"


def picture(heading: str, caption: str, png: bytes) -> str:
    """A picture inside the page, with its heading and what it shows."""
    data = base64.b64encode(png).decode()
    image = f'<img src="data:image/png;base64,{data}" alt="{text(f"{heading}: {caption}")}">'
    return f"<figure><h3>{text(heading)}</h3>{image}<figcaption>{text(caption)}</figcaption></figure>"


VIEWPORT = '<meta name=viewport content="width=device-width, initial-scale=1">'
STYLE = """
:root { --ink: #1f2933; --muted: #52606d; --line: #e4e7eb; --accent: #0072b2; }
body { margin: 0; background: #f5f7fa; color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { margin: 0; font-size: 28px; } h2 { margin: 0 0 8px; font-size: 20px; } h3 { margin: 0 0 8px; font-size: 16px; }
.lead { margin: 4px 0 12px; color: var(--muted); font-size: 17px; overflow-wrap: anywhere; }
.warning { display: inline-block; margin: 0; padding: 6px 12px; border-left: 4px solid #d55e00; background: #fff4ec; }
section { margin-top: 24px; padding: 20px 24px; background: #fff; border: 1px solid var(--line); border-radius: 8px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 16px; }
.tiles b { display: block; font-size: 26px; color: var(--accent); } .tiles span { color: var(--muted); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--muted); font-weight: 600; white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; } .mark td { background: #e8f3fa; font-weight: 600; }
figure { margin: 24px 0 0; } img { max-width: 100%; height: auto; display: block; }
figcaption, dd, li { color: var(--muted); } dt { margin-top: 8px; font-weight: 600; } dd { margin-left: 0; }
.montage { display: grid; grid-template-columns: repeat(auto-fill, minmax(208px, 1fr)); gap: 12px; margin: 8px 0 24px; }
.montage img { display: inline-block; width: 50%; image-rendering: pixelated; }
.montage span { display: block; color: var(--muted); font-size: 13px; }
.prose td, .prose th { text-align: left; white-space: normal; }
pre { padding: 12px; background: #f5f7fa; white-space: pre-wrap; }
"""
