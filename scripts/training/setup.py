"""Setup of a training: losses, model, data, and notes for the user before the first step."""

from typing import Any, NamedTuple

import torch
from torch.nn import Parameter

from data.loading.dataset import CineDataset
from data.loading.processes import Loader
from data.loading.stream import CineStream
from data.loading.token_cache import TokenCache
from modeling.objective import Objective, build_objective
from modeling.titok import TiTok
from modeling.weights.identity import frame_tokens_hash
from modeling.weights.start import start_model
from scripts.recipe import RunConfig, check_losses, training_data
from scripts.training.codebook import CODEBOOK
from utils.run.launch import environment_notes
from utils.run.optim import learning_rate, select_trainable


class Built(NamedTuple):
    """What a recipe trains.

    Args:
        model: on the CPU.
        fresh: components of the model with new random weights.
        objective: the losses.
        trainable: trained parameters of the model, by name.
        learned: parameters of the losses, by name.
    """

    model: TiTok
    fresh: list[str]
    objective: Objective
    trainable: dict[str, Parameter]
    learned: dict[str, Parameter]


def build(config: RunConfig) -> Built:
    """Build losses and model, with its initial weights; random weights of the model do not depend on the losses."""
    torch.manual_seed(config.experiment.seed)
    objective = build_objective(config.losses)
    check_losses(config, objective.needs)
    if all(term.warmup_steps or not term.weight for term in objective.terms.values()):
        raise ValueError("every loss of the recipe has warmup_steps above 0 or the weight 0, so the first steps train "
                         "nothing; set warmup_steps of one loss to 0")  # fmt: skip
    torch.manual_seed(config.experiment.seed)
    model, fresh = start_model(config.model, config.experiment.init_weight)
    model.recompute(config.training.recompute_frames)
    trainable = select_trainable(model, config.training.trainable)
    learned = {f"losses.{name}": parameter for name, parameter in objective.named_parameters()}
    for name in ("reseed_every", "continuous_steps"):  # both change the codebook
        if (value := getattr(config.training, name)) and CODEBOOK not in trainable:
            raise ValueError(f"training.{name} is {value}, but training.trainable does not name {CODEBOOK}")
    if 0 < config.training.max_steps <= (steps := config.training.continuous_steps):
        raise ValueError(f"training.continuous_steps is {steps}, expected fewer than training.max_steps "
                         f"{config.training.max_steps}: the codebook is initialised after them")  # fmt: skip
    if config.training.reseed_every and model.resampler is not None:
        raise ValueError("training.reseed_every replaces unused entries of the tokenizer's codebook, but a model of "
                         "layout sequence counts the ids of the whole cine; set it to 0")  # fmt: skip
    return Built(model, fresh, objective, trainable, learned)


def open_data(config: RunConfig, model: TiTok) -> CineDataset | CineStream:
    """The train split, with the tokens of a cache if the recipe names one.

    Raises:
        ValueError: if data and model do not match.
    """
    dataset = training_data(config)
    for count in config.training.keep_tokens:
        model.check_tokens()
        model.layout.keep(count)
    if config.dataset.tokens is not None and isinstance(dataset, CineDataset):  # not for a stream
        if dataset.drawn_phases is not None:
            raise ValueError("dataset.tokens holds cines of one number of phases; set dataset.max_phases=null")
        if model.resampler is not None:
            raise ValueError("dataset.tokens holds tokens of frames, but model.layout is sequence; leave it out")
        if not model.encoder.is_frozen():
            raise ValueError(
                "dataset.tokens is given, but training.trainable names tokenizer or adapters; leave one out"
            )
        dataset.tokens = TokenCache(config.dataset.tokens, dataset, frame_tokens_hash(model))
    if config.model.conditioning.get("name", "none") != "none" and not dataset.has_key_frames:
        raise ValueError("model.conditioning needs ED and ES: set dataset.unit=slice and dataset.key_frames=true, "
                         "or dataset.unit=stack")  # fmt: skip
    return dataset


def notes(
    config: RunConfig, saved: dict[str, Any] | None, precision: str, loader: Loader, model: TiTok, has_val: bool
) -> list[str]:
    """Return the notes for the user before the first step, one line each."""
    lines = environment_notes(precision)
    before, now = saved["config"]["training"]["max_steps"] if saved else 0, config.training.max_steps
    if saved and before != now:
        step = min(before, now) - 1
        rates = [learning_rate(step, config.optimizer, steps) for steps in (before, now)]
        lines.append(
            f"training.max_steps was {before} and is {now}: from here on the learning rate follows the schedule of "
            f"{now} steps; at step {step} it is {rates[1]:.3g} instead of {rates[0]:.3g}"
        )
    if saved and saved["step"] > now:
        lines.append(
            f"the run has {saved['step']} steps already, more than training.max_steps {now}: nothing is trained"
        )
    if loader.note is not None:
        lines.append(loader.note)
    if model.conditioning.leak is not None:
        lines.append(f"LEAK: {model.conditioning.leak}")
    if not has_val:
        lines.append("the val split is empty, so there is no val_psnr and no preview")
    return lines
