"""The command line of scripts/evaluate.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from data.shards.manifest import SPLITS
from data.shards.remote import folder_or_url
from modeling.flow import SAMPLERS
from scripts.evaluation import sweep
from scripts.files.codec import add_rate_arguments, rate_of
from utils.config.ranges import Positive, check_options
from utils.files import user_path


def parse_arguments(argv: Sequence[str] | None, description: str | None) -> argparse.Namespace:
    """Read and check the command line.

    Args:
        argv: the arguments; None for those of the process.
        description: text of --help.

    Returns:
        The arguments.

    Raises:
        ValueError: a value is out of range, or there is nothing to evaluate.
        FileNotFoundError: a folder does not exist.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--model",
        type=user_path,
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="folders of trained models; the report is on the last",
    )
    recon_help = (
        "folders of reconstructions by other methods, PATIENT.nii.gz each; without --model, the report is on the last"
    )
    add("--recon_dir", type=user_path, nargs="+", default=[], metavar="FOLDER", help=recon_help)
    segmenter = (
        "reference segmenter: folder of a trained model, or NAME.onnx with NAME.yaml (default: the last --model)"
    )
    add("--segmenter", type=user_path, metavar="PATH", help=segmenter)
    shards = "folder of shards from scripts/convert_acdc_to_wds.py, or its URL"
    add("--data", type=folder_or_url, required=True, help=shards)
    add("--split", choices=SPLITS, default="test")
    add("--output_dir", type=user_path, required=True, help="folder for the report")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default auto: a GPU if available)")
    add("--batch_frames", type=int, default=64, help="number of frames per batch (default 64)")
    add("--limit", type=int, help="evaluate only the first LIMIT patients of the split")
    keep = "transmit only the first N tokens of each frame (layout sequence: of the cine); one row for each N"
    add("--keep_tokens", type=int, nargs="+", metavar="N", help=keep)
    add_rate_arguments(parser)
    sweep_help = "also sample the last --model, with all its tokens, with several steps x realism: PSNR, SSIM, time"
    add("--sweep", action="store_true", help=sweep_help)
    add("--steps", type=int, nargs="+", default=[2, 4, 8], help="sampler steps of the sweep (default 2 4 8)")
    add(
        "--realism",
        type=float,
        nargs="+",
        default=[0.25, 0.5, 1.0],
        help="realism values of the sweep, 0 to 1 (default 0.25 0.5 1)",
    )
    add("--sampler", choices=list(SAMPLERS), default="euler", help="sampler of the sweep (default euler)")
    args = parser.parse_args(argv)
    if not args.sweep:  # options without effect do not appear in the report
        args.sweep = args.steps = args.realism = args.sampler = None
    if not args.model and not args.recon_dir:
        raise ValueError("there is nothing to evaluate: give --model, or --recon_dir, or both")
    if not args.model and (args.sweep or args.keep_tokens or rate_of(args)):
        raise ValueError("--sweep, --keep_tokens and a rate need a model: give --model")
    for options in sweep.sampler_options(args.steps, args.realism, args.sampler) if args.sweep else ():
        options.check("dit")
    check_options(args, {"batch_frames": Positive, "limit": Positive})
    for name, folder in [*(("model", folder) for folder in args.model), ("segmenter", args.segmenter)]:
        if folder is not None and not folder.is_dir() and not (name == "segmenter" and folder.suffix == ".onnx"):
            raise FileNotFoundError(f"--{name} {folder}: no such folder; give the output folder of a training run")
    return args
