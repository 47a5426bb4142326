"""A recipe: all options of a training run, and the data that it reads."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from data.loading.augment import AugmentConfig
from data.loading.dataset import CineDataset
from data.loading.loader import collate
from data.loading.stream import CineStream
from data.shards import streamed
from data.shards.reader import ShardReader
from data.shards.samples import SampleEntry
from modeling.config import ModelConfig
from modeling.flow import FlowConfig
from modeling.needs import check_needs, provides
from utils.config.ranges import AboveZero, BelowOne, Count, Positive, Range, Seed, Tokens
from utils.run.optim import OptimizerConfig
from utils.types import Batch

PREVIEWED = r"-?val_(psnr|bits_per_pixel|dice_\w+)"  # values of previews that can choose the best weights


@dataclass
class ExperimentConfig:
    """Output folder, initial weights, seed and logging of a run.

    Args:
        output_dir: folder of all that the run writes.
        init_weight: checkpoint_last.pth or folder of an earlier stage.
        seed: of all random numbers.
        wandb: log to Weights & Biases too; offline unless WANDB_MODE sets another mode.
        tensorboard: log to TensorBoard too.
    """

    output_dir: str = "???"
    init_weight: str | None = None
    seed: Seed = 0
    wandb: bool = False
    tensorboard: bool = False


@dataclass
class DatasetConfig:
    """The data of a run; see data/loading/dataset.py.

    Args:
        shards: a folder, or the URL of a folder, which is first copied to `cache_dir`.
        stream: read the train split sequentially from where it is, without a copy; see data/loading/stream.py.
        shuffle_buffer: number of samples that each loading process of a stream mixes; None for a number that
            suits the unit.
        cache_dir: None for `titok_mri` in the user's cache folder.
        unit: content of a sample: `frame`, `slice`, or `stack` (all slices of a patient, with ED and ES).
        phases: number of phases of a sample; None uses all.
        max_phases: if given, the number of phases of each batch is drawn from `phases` to this number.
        key_frames: include ED and ES in the phases of every slice.
        augment: random changes of training samples.
        workers: number of loading processes of each rank.
        tokens: token cache of scripts/pretokenize.py; the tokenizer must be frozen and is not run.
    """

    shards: str = "acdc_wds"
    stream: bool = False
    shuffle_buffer: Annotated[int, Range(1, 1_000_000)] | None = None
    cache_dir: str | None = None
    unit: str = "frame"
    phases: Annotated[int, Range(1, 1000)] | None = None
    max_phases: Annotated[int, Range(1, 1000)] | None = None
    key_frames: bool = False
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    workers: Annotated[int, Range(0, 256)] = 2
    tokens: str | None = None

    def __post_init__(self) -> None:
        if self.stream and self.tokens is not None:
            raise ValueError(
                f"stream is true and tokens is {self.tokens}, but a token cache is read by index; leave one out"
            )


@dataclass
class TrainingConfig:
    """Options of the training loop.

    Args:
        trainable: globs of parameter names; all other parameters are frozen.
        mixed_precision: no, fp16 or bf16; auto is bf16 if the device has bf16 instructions, else no.
        continuous_steps: steps without the quantizer, before k-means initialises the codebook.
        keep_tokens: numbers of first tokens that the decoder learns to decode; one is drawn for each sample. Empty: all
            tokens.
        recompute_frames: number of frames of a chunk whose activations are computed again in the backward pass. It
            saves memory and costs a second forward pass. 0 stores all activations.
        reseed_every: number of steps after which unused codebook entries are replaced by latents; 0 means never.
        log_every: number of steps between two lines of the log.
        preview_every: number of steps between two previews of held-out slices.
        checkpoint_every: number of steps between two checkpoints.
        keep_last: number of newest checkpoints that are kept.
        keep_every: checkpoints at multiples of this step are kept too; 0 for none.
        best_by: value of the previews, such as `val_psnr`, whose highest value so far decides which weights are in
            `best/`; with a minus sign, its lowest value.
    """

    trainable: list[str] = field(default_factory=list)
    max_steps: Positive = 1000
    global_batch_size: Positive = 32
    gradient_accumulation_steps: Positive = 1
    mixed_precision: Literal["no", "fp16", "bf16", "auto"] = "no"
    max_grad_norm: AboveZero = 1.0
    ema_decay: BelowOne = 0.999
    continuous_steps: Count = 0
    keep_tokens: list[Tokens] = field(default_factory=list)
    recompute_frames: Count = 0
    reseed_every: Count = 0
    log_every: Positive = 50
    preview_every: Positive = 1000
    checkpoint_every: Positive = 1000
    keep_last: Positive = 2
    keep_every: Count = 0
    best_by: str | None = None

    def __post_init__(self) -> None:
        if self.best_by is not None and not re.fullmatch(PREVIEWED, self.best_by):
            raise ValueError(
                f"best_by is {self.best_by}, expected val_psnr, val_bits_per_pixel or val_dice_NAME, with a minus sign "
                "before it for the lowest value"
            )
        if self.global_batch_size % self.gradient_accumulation_steps:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is not a multiple of gradient_accumulation_steps "
                f"{self.gradient_accumulation_steps}; change one of them"
            )


@dataclass
class RunConfig:
    """A recipe."""

    experiment: ExperimentConfig = field(default_factory=ExperimentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    losses: dict[str, Any] = field(default_factory=dict)
    flow: FlowConfig = field(default_factory=FlowConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


MAY_CHANGE_ON_RESUME = (
    *("training.max_steps", "training.log_every", "training.preview_every", "training.checkpoint_every"),
    *("training.keep_last", "training.keep_every", "training.best_by", "training.recompute_frames"),
    *("dataset.workers", "dataset.shards", "dataset.cache_dir"),
    *("experiment.wandb", "experiment.tensorboard", "experiment.output_dir", "experiment.init_weight"),
)


def same_run(saved: dict[str, Any], current: dict[str, Any], where: str, prefix: str = "") -> None:
    """Raise ValueError where a resumed run's config differs in a key that would make it another run."""
    for key in saved.keys() | current.keys():
        name = f"{prefix}{key}"
        before, now = saved.get(key), current.get(key)
        if name in MAY_CHANGE_ON_RESUME or before == now:
            continue
        if isinstance(before, dict) and isinstance(now, dict):
            same_run(before, now, where, f"{name}.")
        else:
            raise ValueError(
                f"{where} holds a run with {name}={before}, but this command has {now}; "
                "choose another experiment.output_dir, or remove that folder to start from the beginning"
            )


def check_losses(config: RunConfig, needs: dict[str, tuple[str, ...]]) -> None:
    """Refuse a recipe or a training split that does not meet the needs of a loss, before any weights are read.

    Args:
        config: the recipe.
        needs: the needs of each loss, by its name.

    Raises:
        ValueError: naming the loss, the unmet need and what to do.
    """
    data = config.dataset
    has = provides(config.model, data.unit, data.key_frames, data.tokens is not None)
    check_needs(needs, has)
    if any("labels" in wanted for wanted in needs.values()):
        labelled = any(entry.masks for entry in train_slices(data))
        check_needs(needs, has if labelled else has - {"labels"})


def train_slices(data: DatasetConfig) -> Iterable[SampleEntry]:
    """The slices of the train split, one by one; a stream is read only as far as it is consumed."""
    if data.stream:
        return streamed.entries(data.shards, "train")
    return ShardReader(data.shards, "train", data.cache_dir).samples


def training_data(config: RunConfig) -> CineDataset | CineStream:
    """The train split with the options of the recipe, read by index or as a stream."""
    model, data = config.model, config.dataset
    options: dict[str, Any] = {
        "image_size": model.image_size, "geometry": model.geometry, "phases": data.phases,
        "seed": config.experiment.seed, "key_frames": data.key_frames, "augment": data.augment,
        "max_phases": data.max_phases,
    }  # fmt: skip
    if data.stream:
        return CineStream(data.shards, "train", data.unit, data.shuffle_buffer, **options)
    return CineDataset(data.shards, "train", data.unit, cache_dir=data.cache_dir, **options)


def held_out_slices(config: RunConfig, key_frames: bool, count: int = 6) -> tuple[Batch, list[str]] | None:
    """The held-out slices for the previews of a run, and their groups; None if the validation split is empty."""
    model, data = config.model, config.dataset
    phases = data.max_phases or data.phases or (2 if key_frames else 1)
    dataset = CineDataset(data.shards, "val", "slice", model.image_size, model.geometry, phases,
                          config.experiment.seed, key_frames, cache_dir=data.cache_dir)  # fmt: skip
    chosen = [len(dataset) * i // count for i in range(count)] if len(dataset) else []
    groups = [str(dataset.reader.samples[index].info["group"] or "") for index in chosen]
    return (collate([dataset[0, index] for index in chosen]), groups) if chosen else None
