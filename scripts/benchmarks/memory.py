"""GPU memory of a training step of a recipe, calculated without a GPU.

    python scripts/benchmark.py memory config=configs/training/MRI/stage1/mri_titok_tokenizer_adapt.yaml

The model runs with fake tensors as under bf16 autocast on a GPU. The tensors that autograd saves for the backward pass
are added, each storage once and without parameters. The losses run on one sample. The sum also contains parameters,
gradients, Adam's two moments, EMA, the batch, and the largest chunk that `training.recompute_frames` computes again. It
does not contain temporary memory of single operations and the overhead of the allocator: keep a tenth of the GPU free.

A ladder draws positions where its symbols are not zero, so it computes one sample of noise on the CPU, where no band is
zero. The search of symbols (`model.ladder.search`) is left out: it saves nothing for the backward pass.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from modeling.config import ModelConfig, TokenizerOptions
from modeling.draws import no_draws
from modeling.heart.segmenter import FixedSegmenter, Segmented
from modeling.objective import Objective, build_objective
from modeling.prediction import Prediction
from modeling.quantizer.vq import Quantized
from modeling.titok import TiTok
from modeling.weights.pretrained import read_tokenizer
from modeling.weights.start import saved_vq_model
from scripts.benchmarks.shared.saved import Counter, Saved, like_a_gpu
from scripts.recipe import RunConfig
from utils.checkpoint import load_weights
from utils.config.ranges import Positive
from utils.config.recipe import parse
from utils.files import user_path, write_json
from utils.run.optim import select_trainable
from utils.types import Batch

FUSED = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
HELP = "GPU memory of a training step of a recipe, calculated without a GPU"
GB = 1e9
AFTER_WARMUP = 10**9  # a step after the warm-up of all losses


class Needed(NamedTuple):
    """Bytes of a training step.

    Args:
        parameters: of the model and of losses with parameters.
        gradients: of the trained parameters.
        moments: both moments of Adam.
        ema: average of the trained parameters.
        batch: images, noise and masks.
        saved: tensors that autograd saves for the backward pass.
        chunk: the largest chunk that is computed again.
    """

    parameters: int
    gradients: int
    moments: int
    ema: int
    batch: int
    saved: int
    chunk: int

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return sum(self)


RANGES = {"slices": Positive, "phases": Positive}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("recipe", nargs="+", metavar="key=value", help="recipe and options of a training")
    add(
        "--slices",
        type=int,
        default=18,
        help="slices of a stack (default 18, ACDC's maximum)",
    )
    add("--phases", type=int, default=35, help="phases, if the recipe sets none (default 35, ACDC's maximum)")
    add("--output", type=user_path, metavar="FILE", help="write the table as JSON")


class Setup(NamedTuple):
    """Model, losses and synthetic batch of a training.

    Args:
        model: on the meta device (a ladder: on the CPU), with its trainable parameters selected.
        objective: the losses, with real parameters.
        trainable: name -> trained parameter.
        samples: number of samples of a micro-batch on one GPU.
        batch: one synthetic sample.
    """

    model: TiTok
    objective: Objective
    trainable: dict[str, nn.Parameter]
    samples: int
    batch: Batch


def set_up(config: RunConfig, slices: int, phases: int) -> Setup:
    """Model, losses and a sample of a recipe; the tokenizer has the architecture of its weights, if available.

    Args:
        config: the recipe.
        slices: D of a stack.
        phases: T where the recipe does not say.
    """
    architecture(config.model, config.experiment.init_weight)
    with torch.device("cpu" if config.model.layout == "ladder" else "meta"):
        model = TiTok(replace(config.model, ladder=replace(config.model.ladder, search=False)))
    objective = build_objective(config.losses)
    model.recompute(config.training.recompute_frames)
    trainable = select_trainable(model, config.training.trainable)
    samples = config.training.global_batch_size // config.training.gradient_accumulation_steps
    return Setup(model, objective, trainable, samples, synthetic_batch(config, slices, phases))


def needed(config: RunConfig, slices: int = 18, phases: int = 35) -> Needed:
    """Return the bytes of a training step of one micro-batch on one GPU.

    Args:
        config: the recipe, see `set_up` for all arguments.
    """
    model, objective, trainable, samples, batch = set_up(config, slices, phases)
    saved = Saved()
    saved.leave_out(objective.parameters())
    if model.ladder is not None:
        saved.leave_out(model.parameters())
        with saved.counting(times=samples):
            objective(model(batch, no_draws(batch)), batch)
    else:
        with sdpa_kernel(list(FUSED)):  # as on a GPU, also if a training in this process has changed it
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                model.to_empty(device="cpu")
                saved.leave_out(model.parameters())
                prediction = forward(model, config, batch, samples, saved)
            run_losses(objective, prediction, batch, samples, saved, mode)
    all_of, learned = size(model.parameters()), size(objective.parameters())
    trains = size(trainable.values())
    inputs = sum(x.nbytes for x in batch if isinstance(x, Tensor)) + batch.image.nbytes
    return Needed(
        all_of + learned, trains + learned, 2 * (trains + learned), trains, samples * inputs, saved.bytes, saved.chunk
    )


def architecture(model: ModelConfig, init_weight: str | None) -> None:
    """Fill in the tokenizer's architecture from its weights; without them, it is that of the published L-32."""
    tokenizer = model.tokenizer
    if model.decoder == "none" or tokenizer.init == "random":
        return
    if init_weight is not None and Path(init_weight).exists():
        tokenizer.vq_model = saved_vq_model(load_weights(init_weight)[1] or {}, init_weight)
    elif tokenizer.init != TokenizerOptions().init:
        tokenizer.vq_model = read_tokenizer(tokenizer.init, tokenizer.revision)[0]


def size(tensors: Any) -> int:
    """Bytes of tensors."""
    return sum(x.nbytes for x in tensors)


def synthetic_batch(config: RunConfig, slices: int, phases: int) -> Batch:
    """One labelled sample of the recipe's shape, a ring beside a box in every frame."""
    data, side = config.dataset, config.model.image_size
    depth = slices if data.unit == "stack" else 1
    most = data.max_phases or data.phases  # the largest batch decides
    times = {"frame": 1, "slice": most or phases, "stack": most or 2}[data.unit]
    line = torch.linspace(-1, 1, side)
    distance = (line[:, None].square() + line.square()).sqrt()
    labels = ((distance < 0.4).byte() * 2 + (distance < 0.25).byte()).to(torch.uint8)
    labels[side // 3 : side // 2, : side // 4] = 1
    return Batch(
        image=torch.rand(1, depth, times, 1, side, side),
        mask=labels[None, None, None].repeat(1, depth, times, 1, 1),
        has_label=torch.ones(1, depth, times, dtype=torch.bool),
        field=torch.ones(1, depth, side, side, dtype=torch.bool),
        slice_position=torch.linspace(0.1, 0.9, depth)[None], phase=(torch.arange(times) / times)[None],
        key_frames=torch.tensor([[0, times // 2]]), spacing_mm=torch.tensor([[1.5, 1.5, 10.0]]), bsa_m2=torch.ones(1),
        sample_seed=torch.zeros(1, dtype=torch.int64), patient=torch.zeros(1, dtype=torch.int64), key=["a"],
        has_key_frames=data.key_frames or data.unit == "stack",
    )  # fmt: skip


def forward(model: TiTok, config: RunConfig, batch: Batch, samples: int, counter: Counter) -> Prediction:
    """A training pass of fake tensors, as many samples as a micro-batch has."""
    zeros = {
        name: torch.zeros((samples, *x.shape[1:]), dtype=x.dtype)
        for name, x in batch._asdict().items() if isinstance(x, Tensor)
    }  # fmt: skip
    fake = batch._replace(**zeros)  # type: ignore[arg-type]  # only tensors are among them
    draws = no_draws(fake)._replace(noise=torch.zeros_like(fake.image))
    lowers = config.training.mixed_precision != "no"
    with counter.counting(), like_a_gpu(), torch.autocast("cpu", torch.bfloat16, enabled=lowers):
        return model(fake, draws)


class CountedSegmenter(FixedSegmenter):
    """Counts the work of a segmenter with fake tensors, and returns zeros for one real sample.

    Attributes:
        pairs: fake output and its real zeros, of each segmentation.
    """

    def __init__(
        self, counted: FixedSegmenter, frames: Tensor, samples: int, counter: Counter, mode: FakeTensorMode
    ) -> None:
        super().__init__(counted.segmenter, frames)
        self.counted, self.samples, self.counter, self.mode = counted, samples, counter, mode
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def segment(self, frames: Tensor) -> Segmented:  # (1, ..., 1, H, W)
        """Return zeros with the shapes and types of the output of the segmenter."""
        with self.mode, self.counter.counting(), like_a_gpu():
            fake = torch.empty(self.samples, *frames.shape[1:], requires_grad=frames.requires_grad)
            segmented = self.counted.segment(fake)
        fakes = (segmented.logits, *segmented.pyramid)
        logits, *pyramid = (real(x, 1) for x in fakes)
        self.pairs += zip(fakes, (logits, *pyramid), strict=True)
        return Segmented(logits, tuple(pyramid))


def real(fake: Tensor, rows: int) -> Tensor:
    """Return zeros like the first rows of a fake tensor, as a leaf with the same `requires_grad`."""
    zeros = torch.zeros((rows, *fake.shape[1:]), dtype=fake.dtype)
    return zeros.requires_grad_(fake.requires_grad)


def run_losses(
    objective: Objective, prediction: Prediction, batch: Batch, samples: int, counter: Counter, mode: FakeTensorMode
) -> tuple[Prediction, Tensor]:
    """The losses of one sample on real zeros, counted as often as there are samples.

    Returns:
        These zeros, leaves in place of the fake prediction; and the weighted sum of the losses.
    """

    def one(fake: Tensor | None) -> Tensor | None:
        return None if fake is None else real(fake, len(fake) // samples)

    quantized = None if prediction.quantized is None else Quantized(*map(one, prediction.quantized))  # type: ignore[arg-type]
    codebook = None if prediction.codebook is None else real(prediction.codebook, len(prediction.codebook))
    segmenter = prediction.segmenter
    if segmenter is not None:
        segmenter = CountedSegmenter(segmenter, real(segmenter.frames, 1), samples, counter, mode)
    of_one = Prediction(
        batch.image, one(prediction.reconstruction), torch.zeros(1), torch.ones(1, dtype=torch.bool),
        one(prediction.latents), quantized, one(prediction.ids), codebook, one(prediction.logits), segmenter,
        one(prediction.context), AFTER_WARMUP,
    )  # fmt: skip
    with counter.counting(times=samples, known=[batch.image]):
        sums = objective(of_one, batch)
        return of_one, objective.total(sums, torch.ones_like(sums))


def table(result: Needed) -> str:
    """The table as text."""
    names = {
        "parameters": "parameters", "gradients": "gradients", "moments": "Adam's moments", "ema": "EMA",
        "batch": "batch", "saved": "saved activations", "chunk": "largest chunk",
    }  # fmt: skip
    rows = [(names[name], value) for name, value in result._asdict().items()] + [("sum", result.total)]
    return "\n".join(f"{name:<20}{value / GB:>8.2f} GB" for name, value in rows)


def run(args: argparse.Namespace) -> None:
    """Calculate, print a table and write it to a file."""
    result = needed(parse(RunConfig, ["experiment.output_dir=unused", *args.recipe]), args.slices, args.phases)
    print(table(result))
    if args.output:
        write_json(args.output, {"command": "memory", "recipe": args.recipe, **result._asdict(), "total": result.total})
