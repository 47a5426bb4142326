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
from tqdm import tqdm

from data.loading.stream import make_loader
from modeling.draws import Draws, draw, no_draws
from modeling.flow import draw_noise
from modeling.titok import TiTok
from scripts.recipe import RunConfig, held_out_slices, same_run
from scripts.training.codebook import CODEBOOK, fit_codebook, reseed_codebook
from scripts.training.output import best_of, is_better, open_log, write_output
from scripts.training.setup import build, notes, open_data
from utils.config.recipe import parse, to_plain
from utils.device import cpu_cores, native_precision
from utils.errors import user_errors
from utils.ranks import average_gradients, sum_over_ranks
from utils.report.drawing.preview import preview
from utils.run.ema import EMA
from utils.run.launch import make_accelerator, process_state
from utils.run.log import RunLog
from utils.run.meter import Meter, console_line
from utils.run.optim import learning_rate, parameter_groups
from utils.run.progress import Progress, named_tensors
from utils.run.state import one_run, save_training
from utils.run.stop import StopRequest
from utils.types import Batch


def train(config: RunConfig, saved: dict[str, Any] | None) -> None:
    """A whole run, from first weights or a checkpoint to the export.

    Raises:
        SystemExit: when the run was asked to stop, after a checkpoint.
    """
    precision = config.training.mixed_precision
    precision = native_precision(process_state().device) if precision == "auto" else precision
    accelerator = make_accelerator(precision)
    device, ranks, main = accelerator.device, accelerator.num_processes, accelerator.is_main_process
    if device.type == "cpu":  # its fused attention is several times slower in training at a few hundred tokens
        torch.backends.cuda.enable_flash_sdp(False)
        torch.set_num_threads(max(1, cpu_cores() // ranks))  # `accelerate launch` leaves one thread
    options, folder = config.training, Path(config.experiment.output_dir)
    model, fresh, objective, trainable, learned = build(config)
    model.to(device)
    objective.to(device)
    ema = EMA(trainable, options.ema_decay)
    dataset, plain = open_data(config, model), to_plain(config)

    # Optimizer; an interrupted run continues from its last healthy checkpoint, which holds all of `stateful`.
    optimizer: Any = torch.optim.AdamW(
        parameter_groups(trainable | learned, config.optimizer),
        betas=(config.optimizer.beta1, config.optimizer.beta2),
        fused=True,
    )
    progress = Progress(list(objective.terms), objective.total, model.num_codes, device)
    stateful: dict[str, Any] = {
        "model": model,
        "ema": ema,
        "optimizer": optimizer,
        "objective": objective,
        "progress": progress,
    }
    if accelerator.scaler is not None:  # of fp16
        stateful["scaler"] = accelerator.scaler
    start, best = 0, None
    if saved is not None:
        if "taught_by" not in saved:
            raise ValueError(f"{folder}: its checkpoint is of another version; give another experiment.output_dir")
        same_run(saved["config"], plain, str(folder))
        for name, part in stateful.items():
            part.load_state_dict(saved[name])
        start, best = saved["step"], best_of(saved, options.best_by)
        model.taught_by = sorted({*model.taught_by, *saved["taught_by"]})
    learner, optimizer = accelerator.prepare(model, optimizer)
    micro = options.gradient_accumulation_steps
    loader = make_loader(dataset, options.global_batch_size // micro, accelerator.process_index, ranks,
                         config.dataset.workers, start * micro, micro)  # fmt: skip
    held_out = held_out_slices(config, dataset.has_key_frames) if main else None
    log = RunLog(folder, enabled=False)
    if main:
        log = open_log(config, plain, start, str(device), ranks, model.conditioning.leak)
        count = sum(p.numel() for p in trainable.values())
        print(f"{len(dataset)} {config.dataset.unit}s to train on; {count / 1e6:.2f} M parameters train; "
              f"{'resumed' if start else 'fresh: ' + (', '.join(fresh) or 'nothing')}; {ranks} rank(s) on {device}; "
              f"step {start} of {options.max_steps}; output in {folder}")  # fmt: skip
        for note in notes(config, saved, precision, loader, model, held_out is not None):
            print(f"note: {note}")
    batches, meter = iter(loader), Meter(device)
    bar = tqdm(range(start, options.max_steps), initial=start, total=options.max_steps, unit="step",
               disable=not (main and sys.stderr.isatty()))  # fmt: skip
    done, status = start, 0
    with StopRequest(main) as stop:
        for step in bar:
            if step == options.continuous_steps > 0:
                fit_codebook(model, dataset, config.experiment.seed, device, step)
                ema.restart(CODEBOOK)
            model.bypass_quantizer(step < options.continuous_steps)
            rate = learning_rate(step, config.optimizer, options.max_steps)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            with meter.waiting():
                loaded = [next(batches) for _ in range(micro)]
            # Counts of the losses are added over micro-batches and ranks before the first pass.
            parts = draw_parts(loaded, model, config, step, device)
            counts = torch.stack([objective.counts(batch, draws.one_step, step) for batch, draws in parts])
            counts = sum_over_ranks(counts.sum(0))
            sums = torch.zeros(len(objective.terms), device=device)
            for number, (batch, draws) in enumerate(parts):
                with accelerator.no_sync(learner) if number < micro - 1 else nullcontext():
                    with accelerator.autocast():
                        prediction = learner(batch, draws)
                    values = objective(prediction, batch)
                    if not values.requires_grad:
                        raise ValueError(f"no loss that is used at step {step} has a gradient to a trained parameter, "
                                         f"samples {', '.join(batch.key)}; add a loss, or train more")  # fmt: skip
                    # DDP averages gradients over ranks: times ranks makes that the gradient of the global mean.
                    accelerator.backward(objective.total(values, counts) * ranks)
                sums += values.detach()
                progress.count(prediction.ids)
            average_gradients(learned.values())
            norm = accelerator.clip_grad_norm_([*trainable.values(), *learned.values()], options.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            ema.update(step)
            progress.add(sums, counts / ranks, norm, [key for batch in loaded for key in batch.key])
            meter.add(ranks * sum(math.prod(batch.image.shape[:3]) for batch in loaded))

            done = step + 1
            status = stop.agreed() if done < options.max_steps else 0
            if options.reseed_every and done > options.continuous_steps and done % options.reseed_every == 0:
                reseed_codebook(model, prediction, batch, progress.unused(), done, optimizer, ema)
            if done % options.log_every == 0 or done == options.max_steps:
                progress.check(done, {}, accelerator.scaler)
                line = {**progress.line(), "learning_rate": rate, "speed": meter.lap(options.max_steps - done)}
                log.write(done, line)
                if main:
                    bar.write(console_line(done, options.max_steps, line))
            if held_out is not None and (done % options.preview_every == 0 or done == options.max_steps):
                with ema.swapped():
                    batch = held_out[0].to(device)
                    scores = preview(model, batch, no_draws(batch), held_out[1], done, log)
                    quantized = done > options.continuous_steps  # earlier previews have no tokens
                    if options.best_by and quantized and is_better(options.best_by, scores, best):
                        best = scores[options.best_by.removeprefix("-")]
                        write_output(folder / "best", plain, model, progress.token_counts(), done)
            if done % options.checkpoint_every == 0 or done == options.max_steps or status:
                state = {name: part.state_dict() for name, part in stateful.items()}
                progress.check(done, named_tensors(state | {"progress": None}), accelerator.scaler)
                if main:
                    log.sync()
                    facts = {"step": done, "config": plain, "best": best, "taught_by": model.taught_by}
                    save_training(folder, done, facts | state, options.keep_last, options.keep_every)
            if status:
                break

    if main and not status:
        with ema.swapped():
            write_output(folder, plain, model, progress.token_counts(), done)
        print(f"done: {folder}/model.safetensors, config.json and checkpoint_last.pth; curves in {folder}/log.jsonl")
    log.close()
    accelerator.end_training()
    if status:
        if main:
            print(f"stopped after step {done} of {options.max_steps} ({stop.reason}); repeat the command to go on")
        raise SystemExit(status)


def draw_parts(
    batches: list[Batch], model: TiTok, config: RunConfig, step: int, device: torch.device
) -> list[tuple[Batch, Draws]]:
    """Micro-batches and their draws on the device; drawn on the CPU, to avoid device synchronisations."""
    parts, times = [], None if model.dit is None else config.flow
    for batch in batches:
        draws = draw(batch, times, model.conditioning.dropout, config.training.keep_tokens, step)
        noise = None if times is None else draw_noise(batch.sample_seed, draws.t, batch.image.shape, device)
        parts.append((batch.to(device), draws.to(device)._replace(noise=noise)))
    return parts


@user_errors()
def main() -> None:
    """Read the recipe and train."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    config = parse(RunConfig, sys.argv[1:])
    with one_run(Path(config.experiment.output_dir)) as saved:
        train(config, saved)


if __name__ == "__main__":
    main()
