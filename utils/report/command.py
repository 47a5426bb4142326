"""The command of a report, without private folders."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
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


def command_line(script: str, argv: Sequence[str] | None) -> str:
    """The command as it was given, quoted for a shell, with absolute paths reduced to their last part.

    Args:
        script: path of the script in the repository.
        argv: its arguments; None for those of the process.
    """
    return shlex.join(["python", script, *map(_public_word, sys.argv[1:] if argv is None else argv)])


def _public_word(word: str) -> str:
    """A word of a command, `VALUE` or `--NAME=VALUE`, without private folders."""
    name, sign, value = word.partition("=") if word.startswith("--") else ("", "", word)
    path = Path(os.path.expanduser(value))  # pathlib refuses `~name` of an unknown user
    return f"{name}{sign}{path.name}" if path.is_absolute() else word
