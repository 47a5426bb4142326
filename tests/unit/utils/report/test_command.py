"""A report shows its command without private folders."""

from pathlib import Path

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
    assert command.command_line("s.py", {"sweep": True, "steps": [2, 4]}) == "python s.py --sweep --steps 2 4"
    line = command.command_line("scripts/evaluate.py", found)
    assert line == "python scripts/evaluate.py --model run out/run2 --data 'x y' --n 3"
