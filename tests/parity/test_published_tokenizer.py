"""The tokenizer against recordings: of the published code where they are at hand, and of this project always."""

import json
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from modeling.tokenizer import Tokenizer
from modeling.weights.pretrained import published_vq_model
from tests.parity.recordings import OWN, RECORDED, read

GOLDENS = os.environ.get("TITOK_MRI_GOLDENS")
FOLDER = Path(GOLDENS or ".")
WITHOUT = pytest.param(None, marks=pytest.mark.skip(reason="set TITOK_MRI_GOLDENS to recordings of the published code"))
RECORDINGS = sorted(path.parent for path in FOLDER.glob("*/io.safetensors")) if GOLDENS else []
DISCRETE = [path for path in RECORDINGS if "_vae" not in path.name]
TRAINED = [path for path in DISCRETE if "train_step" in json.loads((path / "meta.json").read_text())]
VARIANTS = sorted(FOLDER.glob("keys/*.json")) if GOLDENS else []
NAMES = {"ids": lambda path: path.name if path else "none"}


def limits(folder: Path, tokenizer: Tokenizer) -> tuple[float, float]:
    """How far z and the decoded image may be off, by the noise that was measured between float32 and float64."""
    tiny = folder.name.startswith("tiny") or folder.parent == OWN
    if not tokenizer.config.is_legacy:
        return (2e-5 if tiny else 5e-5), 3e-5
    return (2e-5, 1.5e-4) if tiny else (5e-5, 3e-4)


@pytest.mark.parametrize("folder", [*(OWN / name for name in RECORDED), *(DISCRETE or [WITHOUT])], **NAMES)
def test_tokens_are_equal_and_images_agree_within_float_noise(folder: Path) -> None:
    tokenizer, io, _ = read(folder)
    z_limit, image_limit = limits(folder, tokenizer)
    with torch.no_grad():
        z = tokenizer.encoder.project(tokenizer.latents(io["image_u8"].float() / 255))
        quantized = tokenizer.quantize(z)
        decoded = tokenizer.decode(quantized.vectors)
        from_ids = tokenizer.decode(tokenizer.quantize.lookup(io["min_encoding_indices"].squeeze(1)))
    assert torch.equal(quantized.indices, io["min_encoding_indices"].squeeze(1))
    torch.testing.assert_close(z, io["z"], rtol=0, atol=z_limit)
    for image in (decoded, from_ids):
        torch.testing.assert_close(image, io["decode_zq"], rtol=0, atol=image_limit)


@pytest.mark.parametrize("folder", DISCRETE or [WITHOUT], **NAMES)
def test_quantizer_losses_codebook_and_random_tokens_are_the_published_ones(folder: Path) -> None:
    tokenizer, io, _ = read(folder)
    _, image_limit = limits(folder, tokenizer)
    cost = tokenizer.config.commitment_cost
    with torch.no_grad():
        quantized = tokenizer.quantize(io["z"])
        looked_up = tokenizer.quantize.lookup(io["random_tokens"].squeeze(1))
        commitment, codebook = (
            cost * F.mse_loss(quantized.z, quantized.codes),
            F.mse_loss(quantized.z, quantized.codes),
        )
        logits = tokenizer.decoder(io["z_quantized"])
        random = tokenizer.decode(looked_up)
    torch.testing.assert_close(quantized.vectors, io["z_quantized"], rtol=0, atol=2e-6)
    for name, value in (("commitment_loss", commitment), ("codebook_loss", codebook)):
        torch.testing.assert_close(value, io[name].squeeze(), rtol=0, atol=1e-6)
    torch.testing.assert_close(commitment + codebook, io["quantizer_loss"].squeeze(), rtol=0, atol=1e-6)
    entries = looked_up.squeeze(2).transpose(1, 2).flatten(0, 1)[:8]
    torch.testing.assert_close(entries, io["codebook_entry"], rtol=0, atol=2e-6)
    torch.testing.assert_close(logits, io["decoder_out"], rtol=0, atol=image_limit)
    torch.testing.assert_close(random, io["decode_random_tokens"], rtol=0, atol=image_limit)


@pytest.mark.parametrize("folder", TRAINED or [WITHOUT], **NAMES)
def test_one_training_pass_has_the_published_loss_and_gradient_norms(folder: Path) -> None:
    tokenizer, io, meta = read(folder)
    expected = meta["train_step"]
    quantized = tokenizer.train().quantize_latents(tokenizer.latents(io["image_u8"].float() / 255))
    image = tokenizer.decode(quantized.vectors)
    cost, z, codes = tokenizer.config.commitment_cost, quantized.z, quantized.codes
    loss = (image - 0.25).square().mean() + cost * F.mse_loss(z, codes.detach()) + F.mse_loss(z.detach(), codes)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(expected["loss"], abs=1e-5)
    norms = {name: float(value.grad.norm()) for name, value in tokenizer.named_parameters() if value.grad is not None}
    assert norms.keys() >= expected["grad_norms"].keys()
    for name, norm in expected["grad_norms"].items():
        assert norms[name] == pytest.approx(norm, rel=1e-4, abs=1e-7), name


@pytest.mark.parametrize("file", VARIANTS or [WITHOUT], **NAMES)
def test_every_published_variant_has_these_keys_and_shapes(file: Path) -> None:
    recorded = json.loads(file.read_text())
    with torch.device("meta"):
        tokenizer = Tokenizer(published_vq_model(recorded["config"], file.name))
    found = {key: list(value.shape) for key, value in tokenizer.state_dict().items()}
    assert found == {key: value["shape"] for key, value in recorded["keys"].items()}


@pytest.mark.parametrize("folder", [path for path in RECORDINGS if "_vae" in path.name] or [WITHOUT], **NAMES)
def test_a_published_folder_of_continuous_tokens_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    with pytest.raises(ValueError, match="discrete"):
        Tokenizer(published_vq_model(config, folder.name))
