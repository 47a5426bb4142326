"""Training as users run it, on ten tiny phantoms: stages, frozen parts, resume, ranks, wrong input."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeling.flow import SamplerOptions
from modeling.titok import TiTok
from tests.tiny import REPOSITORY, tiny_config
from tests.training import STAGE1, STAGE2, STAGE3, curve, log_lines, train


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the three recipes, which is not the repository."""
    folder = tmp_path_factory.mktemp("workplace")
    for name, text in (("stage1", STAGE1), ("stage2", STAGE2), ("stage3", STAGE3)):
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def stages(workplace: Path, phantom_shards: Path) -> Path:
    """The three stages, one after the other."""
    for number, before in ((1, None), (2, "one"), (3, "two")):
        more = [f"experiment.init_weight={before}/checkpoint_last.pth"] if before else []
        done = train(workplace, f"stage{number}", phantom_shards, ("one", "two", "three")[number - 1], *more)
        assert done.returncode == 0, done.stderr
    return workplace


def test_each_stage_leaves_a_model_that_loads_and_its_curves(stages: Path) -> None:
    for name in ("one", "two", "three"):
        model = TiTok.from_pretrained(stages / name)
        assert model.decode_tokens(model.encode(torch.rand(1, 1, 32, 32, 2, 3))).shape == (1, 1, 32, 32, 2, 3)
        assert len(curve(stages / name)) == 4 and len(curve(stages / name, "val_psnr")) == 1
        assert list((stages / name / "samples").glob("*.png"))


def test_no_later_stage_moves_encoder_adapters_or_codebook_by_a_bit(stages: Path) -> None:
    one, two, three = (load_file(stages / name / "model.safetensors") for name in ("one", "two", "three"))
    frozen = [key for key in three if key.startswith(("tokenizer.", "adapters."))]
    assert frozen and not any(key.startswith("tokenizer.decoder.") for key in three)
    for key in frozen:
        assert torch.equal(one[key], two[key]) and torch.equal(one[key], three[key])
    moved = {key for key in three if not torch.equal(two[key], three[key])}
    assert moved and all(key.startswith(("dit.blocks.1.", "dit.head.")) for key in moved)


def test_stage_two_runs_unchanged_from_a_tokenizer_in_the_published_layout(stages: Path, phantom_shards: Path) -> None:
    TiTok.from_pretrained(stages / "one").save_tokenizer(stages / "published")
    done = train(stages, "stage2", phantom_shards, "from_published", "model.tokenizer.init=published")
    assert done.returncode == 0 and "fresh: adapters, dit;" in done.stdout, done.stderr
    published, trained = (load_file(stages / name / "model.safetensors") for name in ("published", "from_published"))
    kept = [key for key in trained if key.startswith("tokenizer.")]
    assert kept and all(torch.equal(trained[key], published[key.removeprefix("tokenizer.")]) for key in kept)


def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(stages: Path, phantom_shards: Path) -> None:
    more = ("experiment.init_weight=one/checkpoint_last.pth",)
    shutil.copytree(stages / "two", stages / "half")
    shutil.rmtree(stages / "half" / "checkpoints" / "step_4")  # as if killed after step 2
    again = train(stages, "stage2", phantom_shards, "half", *more)
    assert again.returncode == 0 and "step 2 of 4" in again.stdout
    whole, resumed = (load_file(stages / name / "model.safetensors") for name in ("two", "half"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert log_lines(stages / "half") == log_lines(stages / "two")


def test_a_run_cut_between_two_lines_of_its_log_goes_on_to_the_same_log(stages: Path, phantom_shards: Path) -> None:
    more = (TOKEN_LOSSES, *RESEED, "training.log_every=4", "training.checkpoint_every=3", "training.keep_every=3")
    assert train(stages, "stage1", phantom_shards, "sparse", *more).returncode == 0
    shutil.copytree(stages / "sparse", stages / "sparse_again")
    shutil.rmtree(stages / "sparse_again" / "checkpoints" / "step_6")  # as if killed after step 5
    again = train(stages, "stage1", phantom_shards, "sparse_again", *more)
    assert again.returncode == 0 and "step 3 of 6" in again.stdout
    lines = log_lines(stages / "sparse")
    assert [line["step"] for line in lines if "loss" in line] == [4, 6]
    assert lines == log_lines(stages / "sparse_again")


def test_a_run_trains_from_a_stream_and_goes_on_from_it(stages: Path, phantom_shards: Path) -> None:
    more = ("experiment.init_weight=one/checkpoint_last.pth", "dataset.stream=true", "training.log_every=1")
    assert train(stages, "stage2", phantom_shards, "streamed", *more, "training.max_steps=2").returncode == 0
    again = train(stages, "stage2", phantom_shards, "streamed", *more, "training.max_steps=3")
    assert again.returncode == 0 and "step 2 of 3" in again.stdout, again.stderr
    assert len(curve(stages / "streamed")) == 3


def test_the_codebook_is_placed_from_a_stream_and_labels_are_found_in_it(stages: Path, phantom_shards: Path) -> None:
    losses = "losses={reconstruction: {heart: 2.0}, commitment: {}, codebook_usage: {}}"
    done = train(stages, "stage1", phantom_shards, "streamed1", losses, "dataset.stream=true", "training.max_steps=3")
    assert done.returncode == 0, done.stderr
    assert len(curve(stages / "streamed1", "commitment")) == 3


TOKEN_LOSSES = (
    "losses={reconstruction: {heart: 2.0}, commitment: {}, codebook_usage: {}, contrastive: {width: 32, dim: 8}}"
)
RESEED = ("training.reseed_every=1", "training.max_steps=6", "training.continuous_steps=1")


def test_a_loss_with_parameters_and_reseeding_go_on_exactly_and_leave_no_trace_in_the_model(
    stages: Path, phantom_shards: Path
) -> None:
    for output in ("learned", "learned_again"):
        assert train(stages, "stage1", phantom_shards, output, TOKEN_LOSSES, *RESEED).returncode == 0
        if output == "learned":
            shutil.copytree(stages / "learned", stages / "learned_again")
            shutil.rmtree(stages / "learned_again" / "checkpoints" / "step_6")  # as if killed after step 4
    first, second = (load_file(stages / name / "model.safetensors") for name in ("learned", "learned_again"))
    assert first.keys() == load_file(stages / "one" / "model.safetensors").keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    values = curve(stages / "learned", "contrastive")
    assert len(values) == 6 and all(value > 0 for value in values)
    frozen = train(stages, "stage2", phantom_shards, "no", "experiment.init_weight=one", "training.reseed_every=1")
    assert frozen.returncode == 1 and "training.reseed_every is 1" in frozen.stderr


def test_a_finished_run_is_never_overwritten_by_another(stages: Path, phantom_shards: Path) -> None:
    more = ("experiment.init_weight=one/checkpoint_last.pth", "training.checkpoint_every=100")
    assert train(stages, "stage2", phantom_shards, "kept", *more).returncode == 0
    before = (stages / "kept" / "model.safetensors").read_bytes()
    done = train(stages, "stage2", phantom_shards, "kept", *more, "optimizer.learning_rate=0.1")
    assert done.returncode == 1 and "optimizer.learning_rate=0.001, but this command has 0.1" in done.stderr
    assert (stages / "kept" / "model.safetensors").read_bytes() == before


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(stages: Path, phantom_shards: Path) -> None:
    shutil.copytree(stages / "two", stages / "short")
    state = stages / "short" / "checkpoints" / "step_4" / "state.pth"
    state.write_bytes(state.read_bytes()[:1000])
    done = train(stages, "stage2", phantom_shards, "short", "experiment.init_weight=one/checkpoint_last.pth")
    assert done.returncode == 0 and "step 2 of 4" in done.stdout
    assert "step_4/state.pth: not a complete checkpoint" in done.stdout and "is now damaged_step_4" in done.stdout
    assert log_lines(stages / "short") == log_lines(stages / "two")


def test_the_launcher_starts_the_script_from_any_folder(stages: Path, phantom_shards: Path) -> None:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    options = ["config=stage2.yaml", f"dataset.shards={phantom_shards}", "experiment.output_dir=launched",
               "experiment.init_weight=one/checkpoint_last.pth", "training.mixed_precision=no"]  # fmt: skip
    command = [*launcher, str(REPOSITORY / "scripts" / "train_mri_titok.py"), *options]
    done = subprocess.run(command, cwd=stages, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert curve(stages / "launched") == pytest.approx(curve(stages / "two"), rel=1e-4)


def test_two_ranks_see_the_losses_of_one_at_the_same_global_batch(stages: Path, phantom_shards: Path) -> None:
    assert train(stages, "stage1", phantom_shards, "one_rank", TOKEN_LOSSES).returncode == 0
    path = str(REPOSITORY / "scripts" / "train_mri_titok.py")
    options = ["config=stage1.yaml", f"dataset.shards={phantom_shards}", "experiment.output_dir=ranks", TOKEN_LOSSES]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29611"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, path, *options], cwd=stages, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 rank(s)" in done.stdout
    for name in ("loss", "reconstruction", "codebook_usage", "contrastive"):
        assert curve(stages / "ranks", name) == pytest.approx(curve(stages / "one_rank", name), rel=2e-3)


def test_two_ranks_that_recompute_see_the_losses_of_one_that_keeps_all(stages: Path, phantom_shards: Path) -> None:
    more = (
        "experiment.init_weight=one/checkpoint_last.pth", "model.conditioning={name: resnet18}", "model.dit.draft=true",
        "dataset.key_frames=true", 'training.trainable=["dit.*", "conditioning.*"]', "training.max_steps=2",
        "losses={flow: {}, pixel: {}, segmentation: {}, perceptual: {}}",
    )  # fmt: skip
    assert train(stages, "stage2", phantom_shards, "keeps", *more).returncode == 0
    path = str(REPOSITORY / "scripts" / "train_mri_titok.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29613"]
    options = ["config=stage2.yaml", f"dataset.shards={phantom_shards}", "experiment.output_dir=recomputes", *more]
    done = subprocess.run(
        [*launch, path, *options, "training.recompute_frames=3"],
        cwd=stages, env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 rank(s)" in done.stdout
    for name in ("loss", "flow", "segmentation", "perceptual"):
        assert curve(stages / "recomputes", name) == pytest.approx(curve(stages / "keeps", name), rel=2e-3)


def test_gradient_accumulation_sees_the_loss_of_one_batch(stages: Path, phantom_shards: Path) -> None:
    more = ("experiment.init_weight=one/checkpoint_last.pth", "training.gradient_accumulation_steps=2")
    assert train(stages, "stage2", phantom_shards, "parts", *more, "losses={flow: {}}").returncode == 0
    whole = train(stages, "stage2", phantom_shards, "whole", more[0], "losses={flow: {}}")
    assert whole.returncode == 0
    assert curve(stages / "parts") == pytest.approx(curve(stages / "whole"), rel=1e-3)


def test_the_decoder_overfits_one_batch_to_more_than_30_db() -> None:
    torch.manual_seed(0)
    model = TiTok(tiny_config())
    torch.nn.init.normal_(model.tokenizer.quantize.embedding.weight)
    assert model.dit is not None
    tokens = torch.randint(64, (2, 1, 2 + 2 * 8))
    tokens[..., :2] = torch.tensor([0, 1])
    image = torch.nn.functional.interpolate(torch.rand(4, 1, 4, 4), size=32, mode="bicubic").clamp(0, 1)
    frames = image.view(2, 2, 1, 32, 32)  # (G, T, C, H, W)
    phase, position = torch.tensor([[0.0, 0.5]] * 2), torch.full((2,), 0.5)
    ids, anatomy = tokens[:, 0, 2:].view(2, 2, 8), tokens[:, 0, :0]
    optimizer = torch.optim.AdamW(model.dit.parameters(), lr=3e-3)
    for _ in range(400):
        decoded = model.decoder.decode(ids, anatomy, position, phase, SamplerOptions(), [0, 0])
        optimizer.zero_grad()
        (decoded - frames).square().mean().backward()
        optimizer.step()
    decoded = model.decode_tokens(tokens)  # (B, 1, 32, 32, 1, T)
    error = decoded[:, 0, :, :, 0].permute(0, 3, 1, 2) - frames[:, :, 0]
    assert -10 * torch.log10(error.square().mean()) > 30


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("training.max_stpes=3",), "training.max_steps"),
        (("model.decoder=vae",), "expected dit or titok"),
        (("experiment.init_weight=nowhere/checkpoint_last.pth",), "no such file"),
        (("experiment.init_weight=one/checkpoint_last.pth", "model.adapters.phase_layers=3"), "adapters"),
        (("experiment.init_weight=one/checkpoint_last.pth", "training.global_batch_size=0"), "global_batch_size"),
        (("experiment.init_weight=one/checkpoint_last.pth", "dataset.shards=nowhere"), "nowhere"),
        (("experiment.init_weight=one/checkpoint_last.pth", "training.keep_tokens=[4, 9]"), "keep_tokens = 9"),
        (("dataset.stream=true", "dataset.tokens=cache"), "dataset: stream is true and tokens is cache"),
        (
            ("experiment.init_weight=one/checkpoint_last.pth", "dataset.stream=true", "dataset.workers=2"),
            "1 shards for 2",
        ),
        (("losses.flwo={}",), "losses.flow"),
        (("training.mixed_precision=half",), "half"),
        (("training.best_by=psnr",), "best_by is psnr, expected val_psnr"),
    ],
)
def test_a_wrong_option_is_one_clear_line_and_leaves_nothing(
    stages: Path, phantom_shards: Path, more: tuple[str, ...], words: str
) -> None:
    done = train(stages, "stage2", phantom_shards, "never", *more)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and words in errors[0] and "Traceback" not in done.stderr
    assert not (stages / "never").exists()
