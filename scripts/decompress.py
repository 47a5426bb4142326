"""Decode token files (.tmri) to NIfTI cines on the grid of their source.

Research use only, not a medical device. A generative decoder may invent anatomy.

    python scripts/decompress.py cine.tmri back.nii.gz
    python scripts/decompress.py cine.tmri back.nii.gz --model mri_titok_e2e_stage3_output
    python scripts/decompress.py compressed decoded --model mri_titok_e2e_stage3_output

A file contains the identity of the model that wrote it. A model with other tokens is an error; a model with the same
tokens and another decoder gives a note. Size, affine, spacing, units and data type are those of the source. Intensities
are inside the window of the source. Voxels outside the model's field have the value that the file records. Existing
files are not written again. A file that fails does not stop the others.

Started by `torchrun --nproc_per_node N` or `accelerate launch --num_processes N`, the processes divide the files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from data.bitstream.header import Header
from data.nifti.cine import ENDINGS, save_cine
from data.preprocess import invert, native_field
from modeling.flow import SAMPLERS, SamplerOptions
from modeling.titok import TiTok
from scripts.files.codec import decode, decoder_note, load_model, read_tokens
from scripts.files.many import Job, add_file_arguments, check_file_arguments, jobs_left, run_jobs
from utils.device import pick_device
from utils.errors import user_errors
from utils.files import user_path
from utils.ranks import gather, over_ranks

ENDING = ".tmri"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("input", type=user_path, metavar="IN", help=f"a file NAME{ENDING}, or a folder of them")
    add("output", type=user_path, metavar="OUT", help="the NIfTI file to write (.nii.gz or .nii), or a folder")
    add_file_arguments(parser)
    partial = "of a ladder: decode the slices of a damaged file that are whole; the others become the value outside"
    add("--partial", action="store_true", help=partial)
    add("--steps", type=int, default=1, help="sampler steps; more than 1 only with --realism (default 1)")
    add(
        "--realism",
        type=float,
        default=0.0,
        help="0 for the decode of highest PSNR, 1 for a full sample; above 0 only with --steps (default 0)",
    )
    add("--seed", type=int, default=0, help="seed of the noise of a sample (default 0)")
    add("--sampler", choices=list(SAMPLERS), default="euler", help="sampler of a sample (default euler)")
    return parser.parse_args(argv)


def jobs_of(source: Path, output: Path) -> list[Job]:
    """List the token files to decode, with their output files.

    Raises:
        FileNotFoundError: the input does not exist.
        ValueError: the folder contains no token file, or the output has another file ending.
    """
    if source.is_file():
        if not output.name.endswith(ENDINGS):
            raise ValueError(f"OUT {output}: expected a file name that ends in .nii.gz or .nii; rename it")
        return [Job(source.name, source.read_bytes, output)]
    if not source.is_dir():
        raise FileNotFoundError(f"IN {source}: no such file or folder")
    files = sorted(path for path in source.glob(f"*{ENDING}") if not path.name.startswith("."))
    if not files:
        raise ValueError(f"IN {source}: holds no {ENDING} file (subfolders are not searched); give another folder")
    return [Job(path.name, path.read_bytes, output / f"{path.stem}.nii.gz") for path in files]


def native_cine(grid: np.ndarray, header: Header) -> np.ndarray:
    """Return the real values (H, W, D, T) of a decoded cine (S, S, D, T), with the header's value outside the field."""
    low, high = header.window
    native = invert(grid.transpose(2, 3, 0, 1), header.geometry).transpose(2, 3, 0, 1)
    real = low + (high - low) * native.astype(np.float64)
    real[~native_field(header.geometry)] = header.outside or 0.0
    return real


def decompress_job(model: TiTok, data: bytes, path: Path, options: SamplerOptions, partial: bool) -> str:
    """Decode and write one cine; return the line to print."""
    damaged: list[int] | None = [] if partial else None
    tokens, header = read_tokens(model, data, damaged)
    real = native_cine(decode(model, tokens, header, options), header)
    if damaged:
        real[:, :, damaged] = header.outside or 0.0
    save_cine(path, real, header.affine, np.dtype(header.dtype), (header.slope, header.intercept),
              (header.time_step, header.time_unit), header.length_unit)  # fmt: skip
    outside = 100 * (1 - native_field(header.geometry).mean())
    value = f"{header.outside or 0:g}"
    note = decoder_note(model, header)
    if damaged:
        lost = f"slice(s) {', '.join(map(str, damaged))} (from 0) are damaged and are {header.outside or 0:g}"
        note = f"{lost}; {note}" if note else lost
    return (
        f"{'x'.join(map(str, real.shape))} {header.dtype}; {outside:.0f} % of the image is outside the field and is "
        f"{value}" + (f"; note: {note}" if note else "")
    )


@user_errors()
@over_ranks()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    check_file_arguments(args)
    jobs = gather([jobs_left(jobs_of(args.input, args.output), args.output, args.force)])[0]  # as the main rank sees it
    if not jobs:
        return
    options = SamplerOptions(args.steps, args.realism, args.seed, args.sampler)
    model = load_model(args.model, pick_device(args.device), args.batch_frames)
    if model.config.only_segments:
        raise ValueError(f"--model {args.model} only segments: give the folder of a trained stage")
    options.check(model.config.samples_with)
    if args.partial and model.ladder is None:
        raise ValueError("--partial needs a model of layout ladder, whose slices are coded one by one; leave it out")

    def finish(data: bytes, job: Job) -> str:
        return decompress_job(model, data, job.output, options, args.partial)

    run_jobs(jobs, lambda job: job.read(), finish, args.workers, "decompressing", args.output)


if __name__ == "__main__":
    main()
