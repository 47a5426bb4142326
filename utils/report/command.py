"""The command of a report, without private folders."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def public_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a command that a report may show.

    Args:
        arguments: name -> value, None where the argument is not set.

    Returns:
        The arguments that are set; an absolute path is reduced to its last part, a relative path becomes text.
    """

    def public(value: Any) -> Any:
        if isinstance(value, list):
            return [public(entry) for entry in value]
        if isinstance(value, Path):
            return value.name if value.is_absolute() else value.as_posix()
        return value

    return {name: public(value) for name, value in arguments.items() if value not in (None, [])}


def command_line(script: str, arguments: Mapping[str, Any]) -> str:
    """The command with the arguments of `public_arguments`, quoted for a shell."""
    words = ["python", script]
    for name, value in arguments.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *(str(entry) for entry in values if entry is not True)]
    return shlex.join(words)
