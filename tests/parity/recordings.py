"""Recordings of a tokenizer: how their weights are generated, how they are read, and how this project's own were made.

    python -m tests.parity.recordings    writes tests/parity/goldens anew, from this project's code

Only weights that a formula gives are used, so a recording holds config, inputs and outputs, no weights. Record anew
only while the recordings of the published code (TITOK_MRI_GOLDENS) agree: what is written here is believed ever after.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from modeling.tokenizer import Tokenizer
from modeling.weights.pretrained import published_vq_model

OWN = Path(__file__).resolve().parent / "goldens"
GAINS = {"decoder.ffn.2.weight": 6, "patch_embed.weight": 4, "attn.out_proj.weight": 3, "attn.in_proj_weight": 2}
EMBEDDINGS = ("latent_tokens", "class_embedding", "positional_embedding", "mask_token")
SEED = 77
SIZE = {"width": 32, "num_layers": 2, "num_heads": 2}
COMMON = {
    "codebook_size": 64, "token_size": 8, "use_l2_norm": True, "num_latent_tokens": 8, "vit_enc_model_size": SIZE,
    "vit_dec_model_size": SIZE, "vit_enc_patch_size": 16, "vit_dec_patch_size": 16,
}  # fmt: skip
RECORDED = {  # the two forms: legacy models end in proxy codes and the VQGAN's decoder, the later ones in pixels
    "legacy": {**COMMON, "finetune_decoder": True, "is_legacy": True},
    "pixel": {**COMMON, "finetune_decoder": False, "is_legacy": False},
}


def generated(key: str, shape: list[int], seed: int) -> torch.Tensor:
    """The weight of a key, from its name, shape and seed alone."""
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


def make(config: dict[str, Any], seed: int, where: str) -> Tokenizer:
    """A tokenizer with generated weights."""
    tokenizer = Tokenizer(published_vq_model(config, where)).eval()
    shapes = {key: list(value.shape) for key, value in tokenizer.state_dict().items()}
    tokenizer.load_state_dict({key: generated(key, shape, seed) for key, shape in shapes.items()})
    return tokenizer


def read(folder: Path) -> tuple[Tokenizer, dict[str, torch.Tensor], dict[str, Any]]:
    """The tokenizer of a recording, its tensors, and what is said about it."""
    config, meta = (json.loads((folder / f"{name}.json").read_text()) for name in ("config", "meta"))
    tokenizer = make(config, meta["weights_seed"], folder.name)
    return tokenizer, load_file(folder / "io.safetensors"), meta


def record(name: str) -> None:
    """Write one of this project's own recordings."""
    config = {"model": {"vq_model": RECORDED[name]}, "dataset": {"preprocessing": {"crop_size": 32}}}
    tokenizer = make(config, SEED, name)
    shades = (
        np.random.RandomState(SEED).randint(0, 256, (2, 3, 4, 4), dtype=np.uint8).repeat(8, axis=2).repeat(8, axis=3)
    )
    image = torch.from_numpy(shades)
    with torch.no_grad():
        z = tokenizer.encoder.project(tokenizer.latents(image.float() / 255))
        quantized = tokenizer.quantize(z)
        decoded = tokenizer.decode(quantized.vectors)
    tensors = {"image_u8": image, "z": z, "min_encoding_indices": quantized.indices[:, None], "decode_zq": decoded}
    folder = OWN / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "io.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "meta.json").write_text(
        json.dumps({"weights_seed": SEED, "made_with": f"torch {torch.__version__}"}) + "\n"
    )


if __name__ == "__main__":
    for recording in RECORDED:
        record(recording)
