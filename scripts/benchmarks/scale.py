"""Expected time of a training step of a recipe on several GPUs: counted work, stated assumptions, no measurement.

    python scripts/benchmark.py scale config=configs/training/MRI/stage2/mri_titok_dit_fusion.yaml --gpus 1 8 32

Counted without a GPU: parameters, floating point operations of a step of the largest batch (fake tensors, see
flop.py), memory (see `memory`), and the gradients that GPUs exchange. Time is calculated: operations divided by a share
of the peak, plus a ring all-reduce that does not overlap with anything. Each GPU has the samples that the recipe has on
one GPU, so the global batch grows with the GPUs. Loading, the optimizer, and operations other than products,
convolutions and attention take no time here.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import sdpa_kernel

from modeling.prediction import Prediction
from scripts.benchmarks.memory import FUSED, GB, CountedSegmenter, Needed, Setup, forward, needed, run_losses, set_up
from scripts.benchmarks.memory import table as memory_table
from scripts.benchmarks.shared.flop import BACKWARD, PARTS, Flop
from scripts.benchmarks.shared.saved import like_a_gpu
from scripts.recipe import RunConfig
from utils.config.ranges import AboveZero, Positive, Range
from utils.config.recipe import parse
from utils.files import user_path, write_json

HELP = "expected time of a training step on several GPUs, from counted work and assumptions"
ALL_FRAMES = 10**9  # in one chunk: its size does not change the operations
KEPT_FREE = 0.1  # of a GPU, see memory.py
GIB = 2**30
T = 1e12


class Passes(NamedTuple):
    """FLOP of one sample: forward pass, backward pass, and the recomputed part of the forward pass."""

    forward: int
    backward: int
    recomputed: int


class Assumed(NamedTuple):
    """Assumptions on the machine.

    Args:
        tflops: peak of one GPU in 16-bit products, TFLOP/s.
        tflops_float32: the same in float32.
        mfu: share of the peak that is used, in (0, 1].
        bandwidth_gb_s: rate at which one GPU sends data in an all-reduce, GB/s.
    """

    tflops: float
    tflops_float32: float
    mfu: float
    bandwidth_gb_s: float


class Expected(NamedTuple):
    """A step on a number of GPUs, times in seconds."""

    gpus: int
    global_batch: int
    compute_s: float
    exchange_s: float
    step_s: float
    frames_per_s: float


RANGES = {
    "gpus": Positive, "samples_per_gpu": Positive, "tflops": AboveZero, "tflops_float32": AboveZero,
    "mfu": Annotated[float, Range(above=0, most=1)], "bandwidth_gb_s": AboveZero, "memory_gib": AboveZero,
    "slices": Positive, "phases": Positive,
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("recipe", nargs="+", metavar="key=value", help="recipe and options of a training")
    add("--gpus", type=int, nargs="+", default=[1, 8, 32], help="numbers of GPUs (default 1 8 32)")
    add("--samples_per_gpu", type=int, metavar="N", help="samples of one pass on one GPU (default: the recipe's batch)")
    add("--tflops", type=float, default=989.0, help="peak in bf16, TFLOP/s (default 989, data sheet of the H100 SXM)")
    add("--tflops_float32", type=float, default=67.0, help="peak in float32, without TF32 (default 67, the same sheet)")
    add("--mfu", type=float, default=0.4, help="share of the peak used, recomputation included (default 0.4)")
    add("--bandwidth_gb_s", type=float, default=50.0, help="GB/s that a GPU sends to the others (default 50)")
    add("--memory_gib", type=float, default=80.0, help="memory of a GPU (default 80)")
    add("--slices", type=int, default=18, help="slices of a stack (default 18, ACDC's maximum)")
    add("--phases", type=int, default=35, help="phases, if the recipe sets none (default 35, ACDC's maximum)")
    add("--output", type=user_path, metavar="FILE", help="write the result as JSON")


def flop_of_sample(config: RunConfig, setup: Setup) -> dict[str, Passes]:
    """FLOP of a training step for one sample, in 16-bit numbers and in float32.

    The losses run on real zeros, as in memory.py. Their backward pass shows which outputs of the model have a gradient;
    the backward pass of the model starts from these outputs.

    Returns:
        {"bf16": ..., "float32": ...}.
    """
    flop = Flop()
    setup.model.recompute(ALL_FRAMES if config.training.recompute_frames else 0)
    with sdpa_kernel(list(FUSED)):
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            setup.model.to_empty(device="cpu")
            prediction = forward(setup.model, config, setup.batch, 1, flop)
        of_one, total = run_losses(setup.objective, prediction, setup.batch, 1, flop, mode)
        flop.part = BACKWARD
        with flop.counting():
            total.backward()
        with mode, flop.counting(), like_a_gpu():
            outputs = with_gradient(prediction, of_one)
            torch.autograd.backward(outputs, [torch.empty_like(output) for output in outputs])
    return {name: Passes(*(flop.of(part, size) for part in PARTS)) for name, size in (("bf16", 2), ("float32", 4))}


def with_gradient(prediction: Prediction, of_one: Prediction) -> list[Tensor]:
    """Return the fake outputs of model and segmenter that have a gradient from the losses.

    Args:
        prediction: of the model, fake.
        of_one: its real zeros after the backward pass of the losses.
    """
    pairs = [(fake, leaf) for fake, leaf in zip(tensors(prediction), tensors(of_one), strict=True) if fake is not None]
    outputs = [fake for fake, leaf in pairs if leaf is not None and leaf.grad is not None]
    segmenter, frames = of_one.segmenter, prediction.reconstruction
    if isinstance(segmenter, CountedSegmenter):
        segmented = [fake for fake, leaf in segmenter.pairs if leaf.grad is not None]
        if segmented and frames is not None and all(fake is not frames for fake in outputs):
            outputs.append(frames)  # the input of the segmenter
        outputs += segmented
    return outputs


def tensors(prediction: Prediction) -> list[Tensor | None]:
    """The outputs of a model that losses use."""
    given = (prediction.reconstruction, prediction.latents, prediction.codebook, prediction.logits, prediction.context)
    return [*given, *(prediction.quantized or ())]


def expected(
    flop: Mapping[str, int], gradient_bytes: int, samples: int, frames: int, gpus: int, assumed: Assumed
) -> Expected:
    """Time of a step and frames per second, from the assumptions.

    Args:
        flop: {"bf16": ..., "float32": ...} of a step on one GPU.
        gradient_bytes: bytes of gradients that each GPU exchanges.
        samples: number of samples of a step on one GPU.
        frames: number of frames of these samples.
        gpus: number of GPUs.
        assumed: the machine.

    Returns:
        The ring sends 2 (N - 1) / N of the gradients from each of N GPUs.
    """
    peaks = {"bf16": assumed.tflops, "float32": assumed.tflops_float32}
    compute = sum(flop[name] / (peak * T * assumed.mfu) for name, peak in peaks.items())
    exchange = 2 * (gpus - 1) / gpus * gradient_bytes / (assumed.bandwidth_gb_s * GB)
    step = compute + exchange
    return Expected(gpus, gpus * samples, compute, exchange, step, gpus * frames / step)


def count(config: RunConfig, args: argparse.Namespace) -> dict[str, Any]:
    """Return all counts and calculated times of a recipe, as plain data.

    Args:
        config: the recipe.
        args: the options.

    Raises:
        ValueError: for a ladder, whose work depends on the data.
    """
    if config.model.layout == "ladder":
        raise ValueError("the work of a ladder depends on its data; measure it: scripts/benchmark.py rehearse")
    micro = config.training.gradient_accumulation_steps
    if args.samples_per_gpu is not None:
        config.training.global_batch_size = args.samples_per_gpu * micro
    assumed = Assumed(args.tflops, args.tflops_float32, args.mfu, args.bandwidth_gb_s)
    setup, memory = set_up(config, args.slices, args.phases), needed(config, args.slices, args.phases)
    shape = setup.batch.image.shape
    samples = setup.samples * micro
    frames = samples * shape[1] * shape[2]
    of_sample = flop_of_sample(config, setup)
    step = {name: samples * sum(passes) for name, passes in of_sample.items()}
    learned = sum(x.numel() for x in setup.objective.parameters())
    return {
        "command": "scale",
        "recipe": args.recipe,
        "note": "expected, not measured",
        "assumed": {**assumed._asdict(), "memory_gib": args.memory_gib},
        "parameters": sum(x.numel() for x in setup.model.parameters()) + learned,
        "parameters_trained": sum(x.numel() for x in setup.trainable.values()) + learned,
        "samples_per_gpu": samples,
        "frames_per_gpu": frames,
        "flop_of_sample": {name: passes._asdict() for name, passes in of_sample.items()},
        "flop_of_step_per_gpu": step,
        "memory": memory._asdict() | {"total": memory.total},
        "gradient_bytes": memory.gradients,
        "expected": [expected(step, memory.gradients, samples, frames, gpus, assumed)._asdict() for gpus in args.gpus],
    }


def table(result: Mapping[str, Any]) -> str:
    """The result as text, with its assumptions.

    Args:
        result: see `count`.
    """
    assumed, samples = result["assumed"], result["samples_per_gpu"]
    memory_gib = assumed["memory_gib"]
    passes = {name: samples * sum(of[name] for of in result["flop_of_sample"].values()) / T for name in Passes._fields}
    total = sum(passes.values())
    memory = Needed(**{name: result["memory"][name] for name in Needed._fields})
    fits = memory.total <= (1 - KEPT_FREE) * memory_gib * GIB
    lines = [
        f"{' '.join(result['recipe'])}: {result['note']}",
        f"assumed: peak {assumed['tflops']:g} TFLOP/s in bf16 and {assumed['tflops_float32']:g} in float32, of which "
        f"{assumed['mfu']:.0%} are used (--mfu); each GPU sends {assumed['bandwidth_gb_s']:g} GB/s, while it computes "
        "nothing; loading and other operations take no time",
        f"parameters {result['parameters'] / 1e6:.1f} M, of which {result['parameters_trained'] / 1e6:.1f} M train",
        f"a step of one GPU: {samples} samples, {result['frames_per_gpu']} frames, {total:.1f} TFLOP ("
        + ", ".join(f"{name} {value:.1f}" for name, value in passes.items())
        + f"); {result['flop_of_step_per_gpu']['float32'] / T:.1f} of them in float32",
        memory_table(memory),
        f"{memory.total / GIB:.1f} of {memory_gib:g} GiB" + ("" if fits else ": does not fit, a tenth has to stay free")
        + f"; on several GPUs {memory.ema / GB:.2f} GB more, the buckets of the exchange",
        f"gradients exchanged: {result['gradient_bytes'] / GB:.2f} GB a step",
        f"{'GPUs':>6}{'global batch':>14}{'compute (s)':>13}{'exchange (s)':>14}{'step (s)':>10}{'frames/s':>10}",
    ]  # fmt: skip
    for row in (Expected(**row) for row in result["expected"]):
        lines.append(f"{row.gpus:>6}{row.global_batch:>14}{row.compute_s:>13.3f}{row.exchange_s:>14.3f}"
                     f"{row.step_s:>10.3f}{row.frames_per_s:>10.0f}")  # fmt: skip
    return "\n".join(lines)


def run(args: argparse.Namespace) -> None:
    """Count, calculate, print and write."""
    result = count(parse(RunConfig, ["experiment.output_dir=unused", *args.recipe]), args)
    print(table(result))
    if args.output:
        write_json(args.output, result)
