"""Draw the training curves of one run, or of several runs in the same panels, as one PNG.

Research use only, not a medical device.

    python scripts/plot_run.py mri_titok_tokenizer_stage1_output
    python scripts/plot_run.py run_a run_b --keys loss val_psnr --output compared.png

A run is a folder with log.jsonl, as scripts/train_mri_titok.py writes it, also while it trains. A panel shows one
quantity over optimizer steps, without smoothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.errors import user_errors
from utils.files import user_path
from utils.report.drawing.curves import draw_curves, pick_keys, read_curves

PICTURE = "curves.png"
MEANING = "each point of a loss is the mean of the steps since the point before; no smoothing"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("runs", nargs="+", type=user_path, metavar="RUN", help="output folder of a training run")
    add("--output", type=user_path, metavar="PNG", help=f"default: RUN/{PICTURE}; for several runs {PICTURE}")
    add("--keys", nargs="+", metavar="NAME", help="values of the log to draw, in this order (default: nearly all)")
    args = parser.parse_args(argv)
    if args.output is None:
        args.output = Path(PICTURE) if len(args.runs) > 1 else args.runs[0] / PICTURE
    if args.output.suffix != ".png":
        raise ValueError(f"--output is {args.output}, expected a file name that ends in .png; rename it")
    return args


def names_of(runs: Sequence[Path]) -> list[str]:
    """A name for each run: its folder's name, or the path as given where two names are equal.

    Raises:
        ValueError: for a run that is given twice.
    """
    folders = [run.resolve() for run in runs]
    for index, folder in enumerate(folders):
        if folder in folders[:index]:
            raise ValueError(f"{runs[index]} is given twice; leave one out")
    names = [folder.name for folder in folders]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


@user_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    runs = {name: read_curves(run) for name, run in zip(names_of(args.runs), args.runs, strict=True)}
    keys = pick_keys(runs, args.keys)
    title = next(iter(runs)) if len(runs) == 1 else f"{len(runs)} runs"
    draw_curves(args.output, runs, f"Training curves of {title}\n{MEANING}", keys)
    print(f"{', '.join(runs)}, values {', '.join(keys)}: {args.output}")


if __name__ == "__main__":
    main()
