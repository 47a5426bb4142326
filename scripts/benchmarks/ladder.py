"""Time and memory of the rate ladder for one cine, beside SVT-AV1 on the same voxels in the same run.

The cine is a phantom of --size pixels, --slices and --phases, or a NIfTI file. Encoding includes choice of the step,
the search of symbols and the range coder; decoding starts from the bytes. SVT-AV1 codes each slice's cine at one CRF.
The last column counts the multiplications and additions of the networks, in GFLOP a frame.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

from data.case import CineCase
from data.nifti.cine import read_cine
from data.preprocess import native_field
from data.scoring.images import Reference, open_reference
from data.sources.phantom import Options, build
from modeling.titok import TiTok
from scripts.benchmarks.shared.timing import gflop
from scripts.files.codec import compress, decode, load_model, read_tokens, reconstruct
from scripts.files.many import DEFAULT_MODEL
from utils.config import registry
from utils.config.ranges import AboveZero, NotNegative, Positive
from utils.device import pick_device
from utils.files import user_path, write_json
from utils.metrics import finite_mean, frame_scores, psnr

HELP = "seconds, memory and GFLOP of encoding and decoding by the rate ladder, beside SVT-AV1"
Result = TypeVar("Result")


RANGES = {
    "size": Positive, "slices": Positive, "phases": Positive, "rates": AboveZero, "psnr": AboveZero, "crf": NotNegative,
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add(
        "--model", type=user_path, default=DEFAULT_MODEL, metavar="FOLDER", help="a ladder (default: the project's own)"
    )
    add("--cine", type=user_path, metavar="FILE", help="a 4-D NIfTI file (default: a phantom)")
    add("--size", type=int, default=256, help="side of the phantom in pixels (default 256)")
    add("--slices", type=int, default=10, help="slices of the phantom (default 10)")
    add("--phases", type=int, default=20, help="phases of the phantom (default 20)")
    add("--rates", type=float, nargs="+", default=[100, 300], metavar="N", help="bytes a frame (default 100 300)")
    add("--psnr", type=float, nargs="+", default=[38], metavar="P", help="in dB (default 38)")
    add("--crf", type=float, nargs="+", default=[25, 35, 45], help="CRF of SVT-AV1 (default 25 35 45)")
    add("--device", default="auto", help="auto, cpu, cuda ... (default auto: a GPU if there is one)")
    add("--output", type=user_path, metavar="FILE", help="write the table as JSON")


def timed(call: Callable[[], Result]) -> tuple[Result, float]:
    """Run a function once; return its result and the seconds."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def open_cine(args: argparse.Namespace) -> CineCase:
    """The phantom, or the file."""
    if args.cine is not None:
        return read_cine(args.cine)
    source = build(Options(patients=1, size=args.size, slices=args.slices, phases=args.phases))
    return source.load(source.patients()[0])


def measure_ladder(model: TiTok, reference: Reference, rate: dict[str, float]) -> dict[str, Any]:
    """One row of the table."""
    data, encoding = timed(lambda: compress(model, reference, rate=rate))
    decoded, decoding = timed(lambda: reconstruct(model, reference, data))
    tokens, header = read_tokens(model, data)
    frames = header.slices * header.phases
    return {
        "method": "ladder",
        "setting": ", ".join(f"{name} {value:g}" for name, value in rate.items()),
        **quality(reference, decoded, len(data)),
        "encode_s": encoding,
        "decode_s": decoding,
        "gflop_entropy": gflop(lambda: read_tokens(model, data)) / frames,
        "gflop_pixels": gflop(lambda: decode(model, tokens, header)) / frames,
    }


def measure_codec(reference: Reference, crf: float) -> dict[str, Any]:
    """One row of SVT-AV1."""
    codec = registry.build("data.codecs", "svt_av1", {}, "svt_av1")
    parts, encoding = timed(lambda: [codec.encode(cine, crf) for cine in reference.original])
    hw = reference.original.shape[2:]
    decoded, decoding = timed(lambda: np.stack([codec.decode(part, hw) for part in parts]))
    size = sum(len(packet) for part in parts for packet in part)
    result = quality(reference, decoded, size)
    return {"method": "svt_av1", "setting": f"CRF {crf:g}", **result, "encode_s": encoding, "decode_s": decoding}


def quality(reference: Reference, decoded: np.ndarray, size: int) -> dict[str, float]:
    """Bytes a frame and PSNR."""
    frames = reference.original.shape[0] * reference.original.shape[1]
    return {
        "bytes_per_frame": size / frames,
        "psnr": finite_mean(frame_scores(psnr, reference.original, decoded).flat),
    }


def run(args: argparse.Namespace) -> None:
    """Measure, print a table and write it to a file."""
    case, model = open_cine(args), load_model(args.model, pick_device(args.device), 64)
    if model.ladder is None:
        raise ValueError(f"--model {args.model}: is no ladder; give a model of layout ladder")
    reference = open_reference(case, max(case.cine.shape[:2]), "fit")
    assert native_field(reference.prepared.geometry).all()
    slices, phases, height, width = reference.original.shape
    print(f"{height} x {width} pixels, {slices} slices, {phases} phases; {torch.get_num_threads()} thread(s)")
    columns = ("method", "setting", "B/frame", "PSNR", "encode s", "decode s", "ms/frame", "GFLOP/frame")
    print("  ".join(name.rjust(20 if name == "setting" else 11) for name in columns))
    jobs: list[Callable[[], dict[str, Any]]] = []
    for rate in [{"bytes_per_frame": n} for n in args.rates] + [{"psnr": p} for p in args.psnr]:
        jobs.append(lambda rate=rate: measure_ladder(model, reference, rate))  # type: ignore[misc]
    for crf in args.crf:
        jobs.append(lambda crf=crf: measure_codec(reference, crf))  # type: ignore[misc]
    rows = []
    for job in jobs:
        row = job()
        rows.append({**row, "decode_ms_per_frame": 1e3 * row["decode_s"] / (slices * phases)})
        row = rows[-1]
        work = row.get("gflop_entropy", 0.0) + row.get("gflop_pixels", 0.0)
        cells = (row["method"], row["setting"], f"{row['bytes_per_frame']:.1f}", f"{row['psnr']:.2f}",
                 f"{row['encode_s']:.1f}", f"{row['decode_s']:.1f}", f"{row['decode_ms_per_frame']:.1f}",
                 f"{work:.2f}" if work else "-")  # fmt: skip
        print("  ".join(cell.rjust(20 if i == 1 else 11) for i, cell in enumerate(cells)), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of the process {peak:.0f} MiB")
    if args.output:
        about = {"command": "ladder", "threads": torch.get_num_threads(), "cpu_count": os.cpu_count()}
        shape = {"slices": slices, "phases": phases, "height": height, "width": width}
        write_json(args.output, {**about, **shape, "peak_mib": peak, "torch": torch.__version__, "results": rows})
