"""Training from a token cache is the training without it, and a cache of anything else is refused."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from modeling.encoder import FrameEncoder
from scripts import pretokenize
from tests.training import STAGE1, STAGE2, curve, train

FIRST = "experiment.init_weight=stage1/checkpoint_last.pth"
AUGMENT = "dataset.augment={enabled: true, flip: true, rotate_degrees: 20, noise: 0.02, roll: true}"
STEPS = "training.max_steps=6"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, phantom_shards: Path) -> Path:
    """A folder with a stage 1."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "stage1.yaml").write_text(STAGE1)
    (folder / "stage2.yaml").write_text(STAGE2)
    assert train(folder, "stage1", phantom_shards, "stage1").returncode == 0
    return folder


def tokenize(workplace: Path, shards: Path, output: str, *more: str, workers: int = 0) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        options = ["--output_dir", output, "--device", "cpu", "--workers", str(workers)]
        pretokenize.main(["config=stage2.yaml", f"dataset.shards={shards}", FIRST, *more, *options])
    return f"dataset.tokens={output}"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("whole", ("dataset.phases=null",)),
        ("drawn", (AUGMENT,)),
        ("frames", ("dataset.unit=frame", "dataset.phases=null")),
        ("stacks", ("dataset.unit=stack", "dataset.phases=null")),
    ],
)
def test_training_from_the_cache_has_the_losses_and_weights_of_training_without(
    workplace: Path, phantom_shards: Path, name: str, data: tuple[str, ...]
) -> None:
    variants = ("--variants", "4") if name == "drawn" else ()
    cached = tokenize(workplace, phantom_shards, f"tokens_{name}", *data, *variants)
    for output, more in ((f"{name}_without", ()), (f"{name}_with", (cached,))):
        done = train(workplace, "stage2", phantom_shards, output, FIRST, STEPS, *data, *more)
        assert done.returncode == 0, done.stderr
    without, with_cache = workplace / f"{name}_without", workplace / f"{name}_with"
    assert curve(with_cache) == curve(without) and curve(with_cache, "perplexity") == curve(without, "perplexity")
    weights = load_file(without / "model.safetensors")
    assert all(torch.equal(weights[k], v) for k, v in load_file(with_cache / "model.safetensors").items())


def test_a_cache_does_not_run_the_encoder(
    workplace: Path, phantom_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ("dataset.phases=null", "training.preview_every=100", "training.max_steps=2")
    cached = tokenize(workplace, phantom_shards, "tokens_idle", "dataset.phases=null")
    calls: list[int] = []
    latents = FrameEncoder.latents
    monkeypatch.setattr(FrameEncoder, "latents", lambda *a: calls.append(1) or latents(*a))
    assert train(workplace, "stage2", phantom_shards, "idle", FIRST, cached, *data).returncode == 0
    assert len(calls) == 1  # the preview of held-out slices at the end


def test_small_shared_memory_is_not_used_and_gives_the_same_cache(
    workplace: Path, phantom_shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenize(workplace, phantom_shards, "tokens_usual", "dataset.phases=null")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
    monkeypatch.setattr(torch.multiprocessing.reductions, "reduce_storage", None)  # shared memory cannot be used
    tokenize(workplace, phantom_shards, "tokens_piped", "dataset.phases=null", workers=1)
    assert "are sent through pipes" in capsys.readouterr().out
    usual, piped = (np.load(workplace / name / "tokens.npy") for name in ("tokens_usual", "tokens_piped"))
    np.testing.assert_array_equal(usual, piped)


def test_a_second_run_finds_nothing_to_do_and_another_recipe_leaves_the_folder_alone(
    workplace: Path, phantom_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        tokenize(workplace, phantom_shards, "tokens_twice", "dataset.phases=null")
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        tokenize(workplace, phantom_shards, "tokens_twice", "dataset.phases=2", "--variants", "2")
    assert "tokens_twice: exists and holds something else" in capsys.readouterr().err


def test_what_the_cache_is_not_of_is_named(workplace: Path, phantom_shards: Path, tmp_path: Path) -> None:
    cached = tokenize(workplace, phantom_shards, "tokens_named", "dataset.phases=null")
    other = tmp_path / "stage1"
    shutil.copytree(workplace / "stage1", other)
    saved = torch.load(other / "checkpoint_last.pth", weights_only=True)
    saved["model"]["tokenizer.latent_tokens"][0, 0] += 1
    torch.save(saved, other / "checkpoint_last.pth")
    for named, more in (
        ("phases None instead of 2", ("dataset.phases=2",)),
        ("weights", ("dataset.phases=null", f"experiment.init_weight={other / 'checkpoint_last.pth'}")),
        ("augment None instead of", ("dataset.phases=null", AUGMENT)),
        ("unit 'slice' instead of 'frame'", ("dataset.phases=null", "dataset.unit=frame")),
    ):
        refused = train(workplace, "stage2", phantom_shards, "refused", FIRST, cached, *more)
        assert refused.returncode == 1 and named in refused.stderr and "tokens_named" in refused.stderr
    more = ("dataset.phases=null", "losses={reconstruction: {}}")
    trained = train(workplace, "stage1", phantom_shards, "refused", cached, *more)
    assert trained.returncode == 1 and "leave one out" in trained.stderr


def test_a_damaged_or_missing_cache_is_named(workplace: Path, phantom_shards: Path) -> None:
    cached = tokenize(workplace, phantom_shards, "tokens_damaged", "dataset.phases=null")
    path = workplace / "tokens_damaged" / "tokens.npy"
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:-2] + b"\xff\xff"):
        path.write_bytes(damaged)
        refused = train(workplace, "stage2", phantom_shards, "refused", FIRST, cached, "dataset.phases=null")
        assert refused.returncode == 1 and "tokens.npy" in refused.stderr
    np.save(path, np.array([{"code": 1}], dtype=object))  # a pickle inside
    refused = train(workplace, "stage2", phantom_shards, "refused", FIRST, cached, "dataset.phases=null")
    assert refused.returncode == 1 and "tokens.npy" in refused.stderr
    (workplace / "tokens_damaged" / "tokens.json").unlink()
    refused = train(workplace, "stage2", phantom_shards, "refused", FIRST, cached, "dataset.phases=null")
    assert refused.returncode == 1 and "no tokens.json" in refused.stderr


def test_draws_are_kept_only_where_their_number_is_said_and_the_tokenizer_is_frozen(
    workplace: Path, phantom_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more, message in (((), "--variants"), (('training.trainable=["adapters.*"]',), "stage 2 or 3")):
        with pytest.raises(SystemExit):
            tokenize(workplace, phantom_shards, "tokens_no", *more)
        assert message in capsys.readouterr().err and not (workplace / "tokens_no").exists()
