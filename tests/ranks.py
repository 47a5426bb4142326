"""Commands that run in one process, and by a launcher in two: what they write and print must be the same."""

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel

from scripts import compress, evaluate, pretokenize
from scripts.evaluation import scoring
from tests.pages import draw_no_figures
from utils import ranks

FAILING = "the third of four patients, the first of the second rank"


def run(main: Callable[[list[str]], None], *arguments: object) -> None:
    """Run a command on the CPU; also one that fails is followed by the next."""
    with suppress(SystemExit), sdpa_kernel(SDPBackend.MATH):  # training in the same process chooses another kernel
        main([*map(str, arguments), "--device", "cpu"])


def commands(folder: Path, shards: Path, cines: Path, output: Path) -> None:
    """Evaluate, compress and precompute tokens.

    Args:
        folder: folder with the models `model` and `first`, and with `recipe.yaml`, which continues `first`.
        shards: folder of shards with four patients for training.
        cines: folder of NIfTI files; one is damaged.
        output: folder for all that is written.
    """
    pack = scoring.compress

    def some(model: Any, reference: Any, **options: Any) -> bytes:
        if reference.case.patient == failing:
            raise RuntimeError(FAILING)
        return pack(model, reference, **options)

    with pytest.MonkeyPatch.context() as patch:
        failing = list(evaluate.ShardReader(shards, "train").patients())[2]
        patch.setattr(scoring, "compress", some)
        draw_no_figures(patch)
        run(evaluate.main, "--model", folder / "model", "--data", shards, "--split", "train", "--limit", 4,
            "--output_dir", output / "report")  # fmt: skip
    run(compress.main, cines, output / "compressed", "--model", folder / "model")
    run(pretokenize.main, f"config={folder / 'recipe.yaml'}", f"dataset.shards={shards}", "--variants", 3,
        f"experiment.init_weight={folder / 'first'}", "--workers", 0, "--output_dir", output / "tokens")  # fmt: skip


if __name__ == "__main__":
    with ranks.over_ranks():  # one group of ranks for all commands
        commands(*map(Path, sys.argv[1:]))
