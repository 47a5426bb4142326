"""HTML reports: the Jinja2 templates of this folder, filled with plain data into one self-contained page.

Every value is escaped, so that no text from data can add a tag. A template that uses a missing value fails.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(template: str, values: Mapping[str, Any]) -> str:
    """Fill a template.

    Args:
        template: name of a file in the folder templates.
        values: plain data by the names that the template uses.

    Returns:
        HTML text.

    Raises:
        jinja2.UndefinedError: the template uses a value that is missing.
    """
    return TEMPLATES.get_template(template).render(values)


def data_url(image: bytes, kind: str = "png") -> str:
    """The source of an image that is stored inside the page.

    Args:
        image: the file.
        kind: its type behind `image/`, e.g. `png`, `webp` or `svg+xml`.
    """
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
