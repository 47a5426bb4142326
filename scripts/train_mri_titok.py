"""Train TiTok-MRI: one loop for every stage; the recipe sets what trains, the losses, and the first weights.

    accelerate launch scripts/train_mri_titok.py config=configs/training/MRI/stage1/mri_titok_tokenizer_adapt.yaml \
        experiment.output_dir=mri_titok_tokenizer_stage1_output

Any key of the recipe can be given on the command line. An interrupted run continues when the same
command is given again. Research use only, not a medical device.
"""

import math
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from accelerate import PartialState
from torch import Tensor
from tqdm import tqdm

from data.loading.dataset import CineDataset
from data.loading.stream import CineStream, make_loader
from data.loading.token_cache import TokenCache
from modeling.draws import Draws, draw, no_draws
from modeling.flow import draw_noise
from modeling.objective import Objective, build_objective
from modeling.prediction import Prediction
from modeling.titok import TiTok
from modeling.weights.identity import frame_tokens_hash
from modeling.weights.pretrained import export_config
from modeling.weights.start import start_model
from scripts.recipe import RunConfig, check_losses, held_out_slices, same_run, training_data
from utils.checkpoint import export, latest_training, load_training, save_checkpoint, save_training
from utils.config.recipe import parse, to_plain
from utils.device import cpu_cores, native_precision
from utils.ema import EMA
from utils.launch import environment_notes, make_accelerator
from utils.log import RunLog, user_errors
from utils.optim import learning_rate, parameter_groups, select_trainable
from utils.ranks import average_gradients, gather_rows, sum_over_ranks
from utils.report.preview import preview
from utils.types import Batch

CODEBOOK = "tokenizer.quantize.embedding.weight"


@torch.no_grad()
def fit_codebook(model: TiTok, dataset: CineDataset | CineStream, seed: int, device: torch.device) -> None:
    """Place the codebook by k-means on latents of training samples, the same on every rank."""
    needed, latents = 32 * model.layout.codebook_size, []
    for batch in make_loader(dataset, global_batch_size=32):
        batch = batch.to(device)
        quantized = model.encoder.train(batch, no_draws(batch)).quantized
        assert quantized is not None
        latents.append(quantized.z[batch.valid_frames()].flatten(0, 1))
        if sum(len(part) for part in latents) >= needed:
            break
    model.tokenizer.quantize.fit_codebook(torch.cat(latents), seed)


def open_data(config: RunConfig, model: TiTok) -> CineDataset | CineStream:
    """The train split, with the tokens of a cache where the recipe names one.

    Raises:
        ValueError: where data and model do not fit together.
    """
    dataset = training_data(config)
    for count in config.training.keep_tokens:
        model.check_tokens()
        model.layout.keep(count)
    if config.dataset.tokens is not None and isinstance(dataset, CineDataset):  # of a stream, the recipe refuses it
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


def reseed_codebook(
    model: TiTok, prediction: Prediction, batch: Batch, dead: Tensor, seed: int, optimizer: Any, ema: EMA
) -> None:
    """Move entries that nothing used to latents of this batch, alike on every rank; their averages begin anew."""
    z = prediction.tokens()[0].z[batch.valid_frames()].flatten(0, 1).detach()
    model.tokenizer.quantize.reseed(dead, gather_rows(z), seed)
    for name in ("exp_avg", "exp_avg_sq"):
        optimizer.state[model.tokenizer.quantize.embedding.weight][name][dead] = 0
    ema.restart(CODEBOOK, dead)


def train(config: RunConfig) -> None:
    """A whole run, from first weights to export."""
    precision = config.training.mixed_precision
    precision = native_precision(PartialState().device) if precision == "auto" else precision
    accelerator = make_accelerator(precision)
    device, ranks, main = accelerator.device, accelerator.num_processes, accelerator.is_main_process
    if device.type == "cpu":  # its fused attention is several times slower in training at a few hundred tokens
        torch.backends.cuda.enable_flash_sdp(False)
        torch.set_num_threads(max(1, cpu_cores() // ranks))  # `accelerate launch` leaves one thread
    options, folder = config.training, Path(config.experiment.output_dir)

    # Losses; then, with the same seed whatever the losses, the model: first weights, trainable parameters, EMA. Data.
    torch.manual_seed(config.experiment.seed)
    objective = build_objective(config.losses).to(device)
    check_losses(config, objective.needs)
    torch.manual_seed(config.experiment.seed)
    model, fresh = start_model(config.model, config.experiment.init_weight)
    model.recompute(options.recompute_frames)
    trainable = select_trainable(model, options.trainable)
    learned = {f"losses.{name}": parameter for name, parameter in objective.named_parameters()}
    if options.reseed_every and CODEBOOK not in trainable:
        raise ValueError(
            f"training.reseed_every is {options.reseed_every}, but training.trainable does not name {CODEBOOK}"
        )
    model.to(device)
    ema = EMA(trainable, options.ema_decay)
    dataset, plain = open_data(config, model), to_plain(config)

    # Optimizer; an interrupted run continues from its last checkpoint.
    optimizer: Any = torch.optim.AdamW(
        parameter_groups(trainable | learned, config.optimizer),
        betas=(config.optimizer.beta1, config.optimizer.beta2),
        fused=True,
    )
    start, last, used = 0, latest_training(folder), torch.zeros(model.num_codes, device=device)
    if last is not None:
        saved = load_training(last)
        same_run(saved["config"], plain, str(folder))
        model.load_state_dict(saved["model"])
        ema.load_state_dict(saved["ema"])
        optimizer.load_state_dict(saved["optimizer"])
        objective.load_state_dict(saved["objective"])
        used.copy_(saved["seen"])
        start = saved["step"]
    learner, optimizer = accelerator.prepare(model, optimizer)

    if main:
        count = sum(p.numel() for p in trainable.values())
        print(f"{len(dataset)} {config.dataset.unit}s to train on; {count / 1e6:.2f} M parameters train; "
              f"{'resumed' if start else 'fresh: ' + (', '.join(fresh) or 'nothing')}; {ranks} rank(s) on {device}; "
              f"step {start} of {options.max_steps}; output in {folder}")  # fmt: skip
        for note in environment_notes(precision):
            print(f"note: {note}")
    micro = options.gradient_accumulation_steps
    batches = iter(make_loader(dataset, options.global_batch_size // micro, accelerator.process_index, ranks,
                               config.dataset.workers, start * micro, micro))  # fmt: skip
    log = RunLog(folder, enabled=main, wandb=config.experiment.wandb, run_config=plain)
    if main and model.conditioning.leak is not None:
        print(f"note: LEAK: {model.conditioning.leak}")
        log.write(start, {"leak": model.conditioning.leak})
    held_out = held_out_slices(config, dataset.has_key_frames) if main else None
    if main and held_out is None:
        print("note: the val split is empty, so there is no val_psnr and no preview")
    history: list[Tensor] = []
    usage = torch.zeros(model.num_codes, device=device)
    bar = tqdm(range(start, options.max_steps), initial=start, total=options.max_steps, disable=not main, unit="step")
    for step in bar:
        if step == options.continuous_steps > 0:
            fit_codebook(model, dataset, config.experiment.seed, device)
            ema.restart(CODEBOOK)
        model.bypass_quantizer(step < options.continuous_steps)
        rate = learning_rate(step, config.optimizer, options.max_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        # Counts of the losses are added over micro-batches and ranks before the first pass.
        parts = draw_parts([next(batches) for _ in range(micro)], model, config, step, device)
        counts = torch.stack([objective.counts(batch, draws.one_step, step) for batch, draws in parts])
        counts = sum_over_ranks(counts.sum(0))
        sums = torch.zeros(len(objective.terms), device=device)
        for number, (batch, draws) in enumerate(parts):
            with accelerator.no_sync(learner) if number < micro - 1 else nullcontext():
                with accelerator.autocast():
                    prediction = learner(batch, draws)
                values = objective(prediction, batch)
                # DDP averages gradients over ranks: times ranks makes that the gradient of the global mean.
                accelerator.backward(objective.total(values, counts) * ranks)
            sums += values.detach()
            if prediction.ids is not None:
                counted = prediction.ids[prediction.ids >= 0].bincount(minlength=len(usage))
                usage, used = usage + counted, used + counted
        average_gradients(learned.values())
        accelerator.clip_grad_norm_([*trainable.values(), *learned.values()], options.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        ema.update(step)
        history.append(torch.stack([sums, counts / ranks]))

        done = step + 1
        if options.reseed_every and done > options.continuous_steps and done % options.reseed_every == 0:
            reseed_codebook(model, prediction, batch, sum_over_ranks(used) == 0, done, optimizer, ema)
            used.zero_()
        if done % options.log_every == 0 or done == options.max_steps:
            values = {**means(objective, history, done), **codebook_use(usage), "learning_rate": rate}
            log.write(done, values)
            model.token_counts = [] if model.config.layout != "frame" else sum_over_ranks(usage).long().tolist()
            bar.set_postfix({name: f"{values[name]:.4g}" for name in ("loss", "perplexity") if name in values})
            history.clear()
            usage.zero_()
        if held_out is not None and (done % options.preview_every == 0 or done == options.max_steps):
            with ema.swapped():
                batch = held_out[0].to(device)
                preview(model, batch, no_draws(batch), held_out[1], done, log)
        if main and (done % options.checkpoint_every == 0 or done == options.max_steps):
            save_training(folder, done, {"step": done, "config": plain, "model": model.state_dict(),
                                         "ema": ema.state_dict(), "optimizer": optimizer.state_dict(),
                                         "objective": objective.state_dict(), "seen": used})  # fmt: skip

    if main:
        with ema.swapped():
            write_output(folder, plain, model)
        print(f"done: {folder}/model.safetensors, config.json and checkpoint_last.pth; curves in {folder}/log.jsonl")
    log.close()
    accelerator.end_training()


def draw_parts(
    batches: list[Batch], model: TiTok, config: RunConfig, step: int, device: torch.device
) -> list[tuple[Batch, Draws]]:
    """Micro-batches and their draws on the device; all is drawn before it moves, so that no device is waited for."""
    parts, times = [], None if model.dit is None else config.flow
    for batch in batches:
        draws = draw(batch, times, model.conditioning.dropout, config.training.keep_tokens, step)
        noise = None if times is None else draw_noise(batch.sample_seed, draws.t, batch.image.shape, device)
        parts.append((batch.to(device), draws.to(device)._replace(noise=noise)))
    return parts


def write_output(folder: Path, config: dict[str, Any], model: TiTok) -> None:
    """Write the trained model: config.json and model.safetensors for users, checkpoint_last.pth for the next stage."""
    taught_by, weights = model.teachers(), model.state_dict()
    counts = model.token_counts or None
    export(folder, export_config(config["model"], taught_by, model.conditioning.leak, counts), weights)
    save_checkpoint(folder / "checkpoint_last.pth", {**config, "taught_by": taught_by}, weights)


def means(objective: Objective, history: list[Tensor], done: int) -> dict[str, float]:
    """Global mean of each term, its count (`count_NAME`), and the weighted sum, over the steps since the last report.

    Raises:
        ValueError: on every rank alike, naming the first step and term that are not finite.
    """
    sums, counts = sum_over_ranks(torch.stack(history)).unbind(1)  # (steps, terms) each
    for step, row in enumerate(sums.cpu()):
        for name, value in zip(objective.terms, row.tolist(), strict=True):
            if not math.isfinite(value):
                raise ValueError(
                    f"losses.{name} is {value} at step {done - len(history) + step + 1}; lower "
                    "optimizer.learning_rate or training.max_grad_norm, or inspect the data of that step"
                )
    total = torch.stack([objective.total(s, c) for s, c in zip(sums, counts, strict=True)]).mean()
    totals = counts.sum(0)
    named = dict(zip(objective.terms, (sums.sum(0) / totals.clamp(min=1)).tolist(), strict=True))
    return {
        "loss": float(total),
        **named,
        **{f"count_{name}": count for name, count in zip(named, totals.tolist(), strict=True)},
    }


def codebook_use(usage: Tensor) -> dict[str, float]:
    """Perplexity of the ids (1 to codebook size) and the share of entries in use, from counts (V,); V = 0: nothing."""
    if not len(usage):
        return {}
    share = sum_over_ranks(usage) / sum_over_ranks(usage).sum()
    perplexity = torch.exp(-(share * share.clamp(min=1e-12).log()).sum())
    return {"perplexity": float(perplexity), "codes_used": float((share > 0).float().mean())}


@user_errors()
def main() -> None:
    """Read the recipe and train."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    train(parse(RunConfig, sys.argv[1:]))


if __name__ == "__main__":
    main()
