"""The tokenizer against recordings of the published code with generated weights."""

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from modeling.pretrained import published_vq_model
from modeling.tokenizer import Tokenizer

GOLDENS = os.environ.get("TITOK_MRI_GOLDENS")
pytestmark = pytest.mark.skipif(
    GOLDENS is None, reason="set TITOK_MRI_GOLDENS to the folder of recordings of the published code"
)
FOLDER = Path(GOLDENS or ".")
CASES = sorted(p.name for p in FOLDER.glob("*_vq") if (p / "io.safetensors").is_file()) if GOLDENS else []
VARIANTS = sorted(p.name for p in FOLDER.glob("keys/*.json")) if GOLDENS else []
GAINS = {"decoder.ffn.2.weight": 6, "patch_embed.weight": 4, "attn.out_proj.weight": 3, "attn.in_proj_weight": 2}
EMBEDDINGS = ("latent_tokens", "class_embedding", "positional_embedding", "mask_token")


def generated(key: str, shape: list[int], seed: int) -> torch.Tensor:
    """The weight that the recordings were made with, by the recipe in their README."""
    state = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32)
    u = (state.random_sample(shape) * 2 - 1) * 1.7320508075688772
    if key.endswith("embedding.weight"):
        value = u
    elif key.endswith(EMBEDDINGS):
        value = 0.4 * u
    elif len(shape) == 1:
        value = 1 + 0.1 * u if key.endswith(".weight") else 0.05 * u
    else:
        gain = next((g for end, g in GAINS.items() if key.endswith(end)), 1)
        value = gain * u / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(value.astype(np.float32))


def load(name: str) -> tuple[Tokenizer, dict[str, torch.Tensor], dict[str, Any]]:
    config = json.loads((FOLDER / name / "config.json").read_text())
    meta = json.loads((FOLDER / name / "meta.json").read_text())
    tokenizer = Tokenizer(published_vq_model(config, name)).eval()
    tokenizer.load_state_dict({k: generated(k, s, meta["weights_seed"]) for k, s in meta["keys"].items()})
    return tokenizer, load_file(FOLDER / name / "io.safetensors"), meta


@pytest.mark.parametrize("name", CASES)
def test_tokens_are_equal_and_images_agree_within_float_noise(name: str) -> None:
    tokenizer, io, _ = load(name)
    legacy = tokenizer.config.is_legacy
    with torch.no_grad():
        z = tokenizer.encoder.project(tokenizer.latents(io["image_u8"].float() / 255))
        quantized = tokenizer.quantize(z)
        decoded = tokenizer.decode(quantized.vectors)
        random = tokenizer.decode(tokenizer.quantize.lookup(io["random_tokens"].squeeze(1)))
    assert torch.equal(quantized.indices, io["min_encoding_indices"].squeeze(1))
    assert (z - io["z"]).abs().max() < 5e-5
    assert (decoded - io["decode_zq"]).abs().max() < (3e-4 if legacy else 3e-5)
    if "decode_random_tokens" in io:
        assert (random - io["decode_random_tokens"]).abs().max() < (3e-4 if legacy else 3e-5)


@pytest.mark.parametrize("file", VARIANTS)
def test_every_published_variant_has_these_keys_and_shapes(file: str) -> None:
    recorded = json.loads((FOLDER / "keys" / file).read_text())
    with torch.device("meta"):
        tokenizer = Tokenizer(published_vq_model(recorded["config"], file))
    found = {key: list(value.shape) for key, value in tokenizer.state_dict().items()}
    assert found == {key: value["shape"] for key, value in recorded["keys"].items()}
