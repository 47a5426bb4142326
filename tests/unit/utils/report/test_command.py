"""A report shows its command without private folders."""

import sys
from pathlib import Path

import pytest

from utils.report import command


def test_arguments_are_shown_without_private_folders() -> None:
    arguments = {
        "model": [Path("/home/someone/run"), Path("out/run2")],
        "data": Path("/mnt/x y"),
        "limit": None,
        "n": 3,
    }
    found = command.public_arguments(arguments)
    assert found == {"model": ["run", "out/run2"], "data": "x y", "n": 3}


def test_the_command_is_shown_as_it_was_given_without_private_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["report/a", "--model", "/home/someone/run=1", "~nobody7/b", "--data=/mnt/st=1/x y", "--codecs", "--n", "3"]
    line = "python scripts/compare_codecs.py report/a --model run=1 '~nobody7/b' '--data=x y' --codecs --n 3"
    assert command.command_line("scripts/compare_codecs.py", given) == line
    monkeypatch.setattr(sys, "argv", ["scripts/probe.py", "--limit", "2", "~/data"])
    assert command.command_line("scripts/probe.py", None) == "python scripts/probe.py --limit 2 data"
