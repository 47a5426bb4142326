"""Compress NIfTI cines to token files (.tmri) with a trained model.

Research use only, not a medical device.

    python scripts/compress.py cine.nii.gz cine.tmri --bytes_per_frame 100
    python scripts/compress.py cine.nii.gz cine.tmri --psnr 38
    python scripts/compress.py /path/to/acdc_dataset compressed --model mri_titok_e2e_stage3_output --workers 2

Without --model, a small rate ladder codes the whole image at the rate or quality that you choose. It is part of the
project and was trained on synthetic images only.

IN is a 4-D NIfTI file, the folder of one ACDC patient, a folder of ACDC patients, or a folder of 4-D NIfTI files. For a
folder, OUT is a folder with one file for each patient; for one patient, OUT can also be the file. Existing files are
not written again. A file that cannot be compressed does not stop the others; the last line names it, and the exit
status is 1. The model's field may not cover the whole image: each line says how much of the image is outside.

Started by `torchrun --nproc_per_node N` or `accelerate launch --num_processes N`, the processes divide the files, each
on its own GPU. The compressed files are the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.case import CineCase
from data.nifti.cine import read_cine
from data.preprocess import Prepared, native_field
from data.sources.acdc import AcdcSource
from data.sources.nifti import NiftiSource
from modeling.titok import TiTok
from scripts.files.codec import OUTSIDE, add_rate_arguments, compress_case, load_model, prepare_for, rate_of
from scripts.files.many import Job, add_file_arguments, check_file_arguments, jobs_left, run_jobs
from scripts.files.unread import print_unread
from utils.device import pick_device
from utils.errors import user_errors
from utils.files import atomic_path, user_path
from utils.ranks import gather, is_main, over_ranks

ENDING, INFO = ".tmri", "Info.cfg"


class Loaded(NamedTuple):
    """A cine, native and on the model grid."""

    case: CineCase
    prepared: Prepared


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("input", type=user_path, metavar="IN", help="a 4-D NIfTI file, or a folder of patients or NIfTI files")
    add("output", type=user_path, metavar="OUT", help=f"the file to write (NAME{ENDING}), or a folder")
    add_file_arguments(parser)
    add(
        "--keep_tokens",
        type=int,
        metavar="N",
        help="transmit only the first N tokens of each frame, or of the cine, by a model trained with keep_tokens",
    )
    add_rate_arguments(parser)
    add("--outside", choices=OUTSIDE, default="zero",
        help="value of the voxels outside the model's field when the file is decoded (default zero)")  # fmt: skip
    args = parser.parse_args(argv)
    args.rate = rate_of(args)
    return args


def jobs_of(source: Path, output: Path) -> list[Job]:
    """List the cines to compress, with their output files; print the files of a folder that are not read.

    Raises:
        FileNotFoundError: the input does not exist.
        ValueError: the folder contains no cine, or the output has another file ending.
    """
    if source.is_file():
        if output.suffix != ENDING:
            raise ValueError(f"OUT {output}: expected a file name that ends in {ENDING}; rename it")
        return [Job(source.name, partial(read_cine, source), output)]
    if not source.is_dir():
        raise FileNotFoundError(f"IN {source}: no such file or folder")
    if (source / INFO).is_file():  # one ACDC patient
        opened, patients = AcdcSource(source.parent), [source.name]
        if output.suffix == ENDING:
            return [Job(source.name, partial(opened.load, source.name), output)]
    else:
        opened = open_source(source)
        patients = opened.patients()
        if is_main():
            print_unread(opened.unread_files())
    if not patients:
        raise ValueError(f"IN {source}: holds neither ACDC patients nor 4-D NIfTI files; give another folder")
    return [Job(name, partial(opened.load, name), output / f"{name}{ENDING}") for name in patients]


def open_source(folder: Path) -> Any:
    """Open a folder: as ACDC if it contains folders with an Info.cfg, else as a folder of NIfTI files."""
    is_acdc = any(folder.glob(f"*/{INFO}")) or any(folder.glob(f"*/*/{INFO}"))
    return AcdcSource(folder) if is_acdc else NiftiSource(folder)


def compress_job(model: TiTok, loaded: Loaded, path: Path, args: argparse.Namespace) -> str:
    """Compress and write one cine; return the line to print."""
    case, prepared = loaded
    data = compress_case(model, case, prepared, args.keep_tokens, args.outside, args.rate)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    frames, inside = case.cine.shape[2] * case.cine.shape[3], native_field(prepared.geometry)
    ratio = 16 * inside.sum() * frames / (8 * len(data))
    return (
        f"{len(data)} bytes, {len(data) / frames:.1f} bytes a frame, {ratio:.0f}x against int16 of the field; "
        f"{100 * (1 - inside.mean()):.0f} % of the image is outside the field ({args.outside})"
    )


def load(job: Job, model: TiTok) -> Loaded:
    """Read a cine and bring it to the model grid, on the CPU."""
    case = job.read()
    return Loaded(case, prepare_for(model, case))


@user_errors()
@over_ranks()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    check_file_arguments(args)
    jobs = gather([jobs_left(jobs_of(args.input, args.output), args.output, args.force)])[0]  # as the main rank sees it
    if not jobs:
        return
    model = load_model(args.model, pick_device(args.device), args.batch_frames)
    if model.config.only_segments:
        raise ValueError(f"--model {args.model} only segments: give the folder of a trained stage")
    if model.conditioning.leak is not None:
        raise ValueError(f"--model {args.model}: {model.conditioning.leak}; give another model")
    if model.ladder is None and args.rate is not None:
        raise ValueError(f"--{list(args.rate)[-1]} needs a model of layout ladder; leave it out, or leave --model out")
    if model.ladder is not None and args.keep_tokens is not None:
        raise ValueError("--keep_tokens: a rate ladder takes --bytes_per_frame or --psnr; leave it out")
    if args.keep_tokens is not None:
        model.layout.keep(args.keep_tokens)
    run_jobs(jobs, lambda job: load(job, model), lambda loaded, job: compress_job(model, loaded, job.output, args),
             args.workers, "compressing", args.output)  # fmt: skip


if __name__ == "__main__":
    main()
