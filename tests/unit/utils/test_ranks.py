"""An error of one rank ends all ranks, and is printed once."""

from pathlib import Path

import pytest

from tests.tiny import launch
from utils import ranks

SCRIPT = """
import os
from utils.errors import user_errors
from utils.ranks import gather, is_main, over_ranks, share

@user_errors()
@over_ranks()
def main():
    names = gather(share(["a", "b", "c"]))
    print(names, is_main(), flush=True)
    if os.environ["RANK"] == "1":
        raise ValueError(f"only rank {os.environ['RANK']} fails")
    gather(names)  # the other rank does not come here

main()
"""


def test_a_rank_that_fails_ends_the_others_and_its_error_is_printed_once(tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text(SCRIPT)
    done = launch(tmp_path / "fails.py")
    assert done.returncode == 1
    assert done.stdout == "['a', 'b', 'c'] True\n"
    assert [line for line in done.stderr.splitlines() if "fails" in line and line.startswith("error")] == [
        "error (rank 1): only rank 1 fails"
    ]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
def test_the_parts_of_all_ranks_are_the_whole_in_order(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    items = list(range(count))
    assert ranks.share(items) == ranks.gather(items) == items and ranks.is_main()
    monkeypatch.setattr(ranks, "world_size", lambda: 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(ranks.dist, "get_rank", lambda rank=rank: rank)
        parts.append(ranks.share(items))
    assert [item for part in parts for item in part] == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1 and len(parts[0]) == max(map(len, parts))
