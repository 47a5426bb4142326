"""Trained weights load key for key or not at all, from wherever they lie, and never run what a file holds."""

import json
import pickle
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

from modeling.titok import TiTok
from modeling.weights import hub
from tests.tiny import tiny_model

GENERATOR = {"image_seq_len": "${model.vq_model.num_latent_tokens}"}  # published configs leave it unresolved


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tokenizer in the published layout, which knows no hash of its weights."""
    folder = tmp_path_factory.mktemp("published")
    tiny_model("titok").save_tokenizer(folder)
    config = json.loads((folder / "config.json").read_text())
    config["model"]["generator"] = GENERATOR
    del config["weights_hash"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def copy(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "copy"))


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


def tokens(model: TiTok) -> torch.Tensor:
    return model.encode(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))


def test_a_published_tokenizer_takes_colour_images_and_gives_k_tokens_each(published: Path) -> None:
    model = TiTok.from_pretrained(published)
    found = tokens(model)
    assert found.shape == (2, 8) and found.dtype == torch.int64 and not model.training
    assert model.decode_tokens(found).shape == (2, 3, 32, 32)


def test_all_forms_of_the_same_weights_give_the_same_tokens(published: Path, copy: Path, tmp_path: Path) -> None:
    expected = tokens(TiTok.from_pretrained(published))
    state = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(state, copy / "pytorch_model.bin")
    assert torch.equal(tokens(TiTok.from_pretrained(copy)), expected)

    single = tmp_path / "single"
    single.mkdir()
    torch.save(state, single / "tokenizer_tiny.bin")
    config = json.loads((copy / "config.json").read_text())
    config["experiment"] = {"tokenizer_checkpoint": "elsewhere/tokenizer_tiny.bin"}
    (single / "tiny.yaml").write_text(json.dumps(config))  # JSON is YAML
    for source in ("tokenizer_tiny.bin", "tiny.yaml"):
        assert torch.equal(tokens(TiTok.from_pretrained(single / source)), expected)


def test_a_single_file_without_its_other_half_says_what_is_missing(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "tokenizer.bin")
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.bin: no YAML beside it"):
        TiTok.from_pretrained(tmp_path / "tokenizer.bin")
    (tmp_path / "one.yaml").write_text("experiment: {tokenizer_checkpoint: ../other.bin}\n")
    with pytest.raises(FileNotFoundError, match=r"tokenizer_checkpoint other\.bin beside it"):
        TiTok.from_pretrained(tmp_path / "one.yaml")
    with pytest.raises(FileNotFoundError, match=r"gone\.bin: no such file"):
        TiTok.from_pretrained(tmp_path / "gone.bin")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("latent_tokens"), r"missing keys: tokenizer\.latent_tokens"),
        (lambda s: s.update({"extra.weight": torch.zeros(1)}), r"unknown keys: tokenizer\.extra\.weight"),
        (lambda s: s.update({"encoder.ln_pre_.weight": s.pop("encoder.ln_pre.weight")}), r"encoder\.ln_pre\.weight"),
        (lambda s: s.update({"latent_tokens": torch.zeros(8, 31)}), r"latent_tokens \(8, 31\) instead of \(8, 32\)"),
    ],
)
def test_a_missing_left_over_renamed_or_misshapen_key_is_named(copy: Path, change, message: str) -> None:
    edit(copy, change)
    with pytest.raises(ValueError, match=message) as error:
        TiTok.from_pretrained(copy)
    assert "model.safetensors" in str(error.value)


def test_continuous_tokens_are_refused_with_the_reason(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["model"]["vq_model"]["quantize_mode"] = "vae"
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"vae.*discrete"):
        TiTok.from_pretrained(copy)


def test_pickled_code_is_refused_and_never_runs(copy: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "ran",)

    (copy / "model.safetensors").unlink()
    torch.save({"latent_tokens": Trap()}, copy / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: holds pickled code, which is never executed"):
        TiTok.from_pretrained(copy)
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match=r"pytorch_model\.bin"):
        TiTok.from_pretrained(copy)
    assert not (tmp_path / "ran").exists()


def fails_with(error: Exception) -> Callable[..., str]:
    def download(*arguments: object, **options: object) -> str:
        raise error

    return download


RESPONSE = SimpleNamespace(headers={}, status_code=403, request=None)


@pytest.mark.parametrize(
    ("error", "offline", "message"),
    [
        (errors.GatedRepoError, False, "gated; accept the terms at https://huggingface.co/owner/name, then `hf auth"),
        (errors.RepositoryNotFoundError, False, "no such model on the Hugging Face Hub"),
        (errors.RevisionNotFoundError, False, "no revision 'v2'"),
        (
            errors.LocalEntryNotFoundError,
            True,
            "not in the cache CACHE, while HF_HUB_OFFLINE is set; run scripts/fetch",
        ),
        (errors.LocalEntryNotFoundError, False, "not in the cache CACHE, while https://huggingface.co did not answer"),
        (errors.EntryNotFoundError, False, "has no config.json with model.safetensors or pytorch_model.bin"),
    ],
)
def test_what_the_hub_does_not_give_is_said_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], offline: bool, message: str
) -> None:
    raised = error.__new__(error)
    Exception.__init__(raised, "from the Hub")
    monkeypatch.setattr(hub, "hf_hub_download", fails_with(raised))
    monkeypatch.setattr(hub, "no_answer", lambda *asked: "HF_HUB_OFFLINE is set" if offline else None)
    with pytest.raises(FileNotFoundError, match=r"^owner/name: ") as found:
        TiTok.from_pretrained("owner/name", revision="v2", cache_dir="CACHE")
    assert message in str(found.value)


def test_the_hub_is_asked_for_the_revision_and_safetensors_come_first(
    monkeypatch: pytest.MonkeyPatch, published: Path
) -> None:
    asked = []

    def download(source: str, name: str, revision: str | None, cache_dir: str | None, **how: bool) -> str:
        asked.append((source, name, revision, cache_dir))
        return str(published / name)

    monkeypatch.setattr(hub, "no_answer", lambda *asked: None)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert tokens(TiTok.from_pretrained("owner/name", revision="v2", cache_dir="CACHE")).shape == (2, 8)
    assert asked == [("owner/name", name, "v2", "CACHE") for name in ("config.json", "model.safetensors")]


def test_a_repository_without_safetensors_gives_its_bin(monkeypatch: pytest.MonkeyPatch, copy: Path) -> None:
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")

    def download(source: str, name: str, revision: str | None, cache_dir: str | None, **how: bool) -> str:
        if name == "model.safetensors":
            raise errors.EntryNotFoundError("404")
        return str(copy / name)

    monkeypatch.setattr(hub, "no_answer", lambda *asked: None)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert hub.find_pretrained("owner/name").weights.name == "pytorch_model.bin"


def test_what_is_neither_a_folder_nor_an_id_and_a_folder_without_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape("not/an/id: no such folder, and not an id")):
        TiTok.from_pretrained("not/an/id")
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors or pytorch_model\.bin in it"):
        TiTok.from_pretrained(tmp_path)
    (tmp_path / "checkpoint_last.pth").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"checkpoint_last\.pth: is a file; give the folder"):
        TiTok.from_pretrained(tmp_path / "checkpoint_last.pth")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "expected the config of a model, found None"),
        ([], r"expected the config of a model, found \[\]"),
        ({}, "neither a TiTok-MRI model nor a published tokenizer"),
        ({"format": "titok-mri", "schema_version": 1}, "has no section `model`"),
        ({"format": "titok-mri", "schema_version": 1, "model": None}, "has no section `model`"),
        ({"format": "titok-mri", "schema_version": 1, "model": {}}, "has no `taught_by`"),
        ({"format": "titok-mri", "schema_version": 99, "model": {}}, "schema_version is 99, but this code reads 1"),
        (
            {
                "format": "titok-mri",
                "taught_by": [],
                "model": {"dit": {"size": {"width": 8, "num_layers": 10**12, "num_heads": 2}}},
            },
            r"model\.dit\.size\.num_layers: expected a number from 1",
        ),
    ],
)
def test_a_config_that_describes_no_model_is_refused_at_once(copy: Path, config: object, message: str) -> None:
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        TiTok.from_pretrained(copy)


def test_the_largest_model_that_a_config_may_name_is_compared_with_its_weights_in_seconds(copy: Path) -> None:
    size = {"width": 16384, "num_layers": 256, "num_heads": 256}
    vq_model = {"image_size": 2048, "codebook_size": 2**20, "vit_enc_model_size": size, "vit_dec_model_size": size,
                "vit_enc_patch_size": 1, "vit_dec_patch_size": 1, "num_latent_tokens": 4096}  # fmt: skip
    model = {"tokenizer": {"init": "random", "vq_model": vq_model}, "dit": {"size": size, "patch_size": 1}}
    (copy / "config.json").write_text(
        json.dumps({"format": "titok-mri", "schema_version": 1, "taught_by": [], "model": model})
    )
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"model\.safetensors: missing keys"):
        TiTok.from_pretrained(copy)
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((8, 32), float("nan")), "latent_tokens holds NaN or infinity"),
        (torch.full((8, 32), float("inf")), "latent_tokens holds NaN or infinity"),
        (torch.zeros(8, 32, dtype=torch.int8), "latent_tokens is torch.int8, expected floating-point weights"),
    ],
)
def test_weights_that_are_no_finite_numbers_are_refused(copy: Path, value: torch.Tensor, message: str) -> None:
    edit(copy, lambda state: state.update({"latent_tokens": value}))
    with pytest.raises(ValueError, match=message):
        TiTok.from_pretrained(copy)
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=message):
        TiTok.from_pretrained(copy)
