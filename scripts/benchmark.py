"""Measure speed and memory. Research use only, not a medical device.

    python scripts/benchmark.py data --data acdc_wds --output data.json
    python scripts/benchmark.py tokenizer --variants l32 s128 --output tokenizer.json
    python scripts/benchmark.py decode --device cuda --output decode.json
    python scripts/benchmark.py ladder --output ladder.json
    python scripts/benchmark.py memory config=configs/training/MRI/stage2/mri_titok_dit_fusion.yaml
    python scripts/benchmark.py scale config=configs/training/MRI/stage2/mri_titok_dit_fusion.yaml --gpus 1 8 32
    python scripts/benchmark.py phases --model mri_titok_tokenizer_stage1_output --data acdc_wds
    python scripts/benchmark.py bound --data acdc_wds --bits 512 --output bound.json
    python scripts/benchmark.py train config=configs/demo/stage2.yaml
    python scripts/benchmark.py rehearse config=configs/training/MRI/stage2/mri_titok_dit_fusion.yaml

Each command is a file of scripts/benchmarks; `COMMAND --help` explains its measurement.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.benchmarks import bound, data, decode, ladder, memory, phases, rehearse, scale, tokenizer, train
from utils.config.ranges import check_options
from utils.errors import user_errors

COMMANDS = {
    "bound": bound, "data": data, "tokenizer": tokenizer, "decode": decode, "ladder": ladder, "memory": memory,
    "phases": phases, "rehearse": rehearse, "scale": scale, "train": train,
}  # fmt: skip


@user_errors()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name, help=module.HELP, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(command)
    args = parser.parse_args(argv)
    check_options(args, COMMANDS[args.command].RANGES)
    COMMANDS[args.command].run(args)


if __name__ == "__main__":
    main()
