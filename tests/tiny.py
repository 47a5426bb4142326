"""Tiny models, and how tests run the project's scripts."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from modeling.config import ModelConfig
from modeling.ladder.ladder import LadderConfig
from modeling.ladder.network import ContextConfig
from modeling.resampling.config import SequenceConfig
from modeling.titok import TiTok
from modeling.tokenizer import VQModelConfig

REPOSITORY = Path(__file__).resolve().parents[1]
TINY = {"width": 32, "num_layers": 2, "num_heads": 2}
REFINEMENT = {"name": "conv", "width": 8, "blocks": 1, "components": 3}


def run_script(name: str, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of the project's scripts as a user would, from a folder that is not the repository."""
    command = [sys.executable, str(REPOSITORY / "scripts" / name), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)


def launch(file: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a Python file of the tests in two processes, as `torchrun` does."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def tiny_config(
    decoder: str = "dit", channels: int = 1, conditioning: str | dict[str, Any] = "none", layout: str = "frame"
) -> ModelConfig:
    """A model of 32 px frames, 8 tokens of 64 codes a frame; or 6 of 64 for a whole cine; or a ladder."""
    chosen = {"name": conditioning} if isinstance(conditioning, str) else conditioning
    decoder = "none" if layout == "ladder" else decoder
    config = ModelConfig(channels=channels, decoder=decoder, geometry="crop", layout=layout, conditioning=chosen)
    config.tokenizer.init = "random"
    config.tokenizer.vq_model = VQModelConfig(
        image_size=32,
        codebook_size=64,
        token_size=6,
        vit_enc_model_size=TINY,
        vit_dec_model_size=TINY,
        vit_enc_patch_size=8,
        vit_dec_patch_size=8,
        num_latent_tokens=8,
        finetune_decoder=False,
        is_legacy=False,
    )
    config.adapters.phase_heads = 2
    config.sequence = SequenceConfig(num_tokens=6, levels=[4, 4, 4], width=32, num_layers=2, num_heads=2)
    config.ladder = LadderConfig(ContextConfig(16, 2), dict(REFINEMENT), slices=2, positions=300)
    config.dit.size, config.dit.patch_size, config.dit.head_channels = dict(TINY), 8, 4
    return config


def tiny_model(
    decoder: str = "dit",
    channels: int = 1,
    seed: int = 0,
    conditioning: str | dict[str, Any] = "none",
    layout: str = "frame",
    draft: bool = False,
) -> TiTok:
    """A tiny model whose zero-initialised layers are filled too, so that everything has an effect."""
    torch.manual_seed(seed)
    config = tiny_config(decoder, channels, conditioning, layout)
    config.dit.draft = draft
    model = TiTok(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
    if model.tokenizer is not None:
        torch.nn.init.normal_(model.tokenizer.quantize.embedding.weight)
    return model
