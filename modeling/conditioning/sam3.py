"""Frozen vision features of SAM 3 as A ids per key frame; needs `pip install transformers` and gated weights.

    key frames ─► SAM 3 vision encoder (frozen) ─► pooled to a coarse grid ─► A x FSQ ids ─► context of the decoder

An export does not contain the weights of the encoder; it stores their source. The features depend on the frame alone
and are cached in memory and, with `cache_dir`, on disk.

Source: Carion et al., SAM 3: Segment Anything with Concepts, 2025 (the perception encoder that makes the features).
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.conditioning._anatomy import Anatomy, AnatomyOptions, AnatomyTokens
from modeling.weights.hub import no_answer
from utils.config.ranges import Pixels, Width
from utils.files import atomic_path

KEPT_IN_MEMORY = 1024  # frames
MEAN, STD = 0.5, 0.5  # of SAM 3's image processor


@dataclass
class Options(AnatomyOptions):
    """Options beside `AnatomyOptions`.

    Args:
        weights: a Hub id or a local folder that transformers reads.
        revision: commit, tag or branch of the Hub id.
        grid: number of rows and columns of the pooled features.
        channels: number of channels to which the features are projected.
        feature_channels: number of channels of the encoder; 1024 for the published one.
        cache_dir: folder for features on disk; None caches the last frames in memory only.
    """

    weights: str = "facebook/sam3"
    revision: str | None = None
    grid: Pixels = 8
    channels: Width = 16
    feature_channels: Width = 1024
    cache_dir: str | None = None


class Sam3Conditioning(nn.Module):
    """Encodes SAM 3's features of key frames as A tokens.

    Args:
        options: see `Options`.
    """

    segmenter = None
    leak = None

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.num_tokens, self.width, self.dropout = options.num_tokens, options.width, options.dropout
        self.features = FeatureCache(options)
        self.place = nn.Linear(options.feature_channels, options.channels)
        size = options.channels * options.grid**2
        self.tokens = AnatomyTokens(size, options.num_tokens, options.levels, options.width)
        self.codebook_size = self.tokens.fsq.codebook_size

    def forward(self, key_frames: Tensor, transmitted: Tensor, masks: Tensor | None = None) -> Anatomy:
        """Return the context of training slices (G, 2, 1, H, W); gradients stop at the features."""
        summary = self.summarize(key_frames.flatten(0, 1)).unflatten(0, key_frames.shape[:2])
        return Anatomy(self.tokens.train_context(summary, transmitted))

    def encode(self, key_frames: Tensor, masks: Tensor | None = None) -> Tensor:  # (N, 1, H, W)
        """Anatomy token ids of ED or ES frames, (N, A)."""
        return self.tokens.quantize(self.summarize(key_frames))[1]

    def context(self, ids: Tensor) -> Tensor:  # (G, 2 * A)
        """Return the input of the decoder's cross-attention, (G, 2 * A, width)."""
        return self.tokens.context(ids)

    def summarize(self, frames: Tensor) -> Tensor:  # (N, 1, H, W)
        """Return the projected features of each frame, (N, summary_size)."""
        return self.place(self.features(frames).to(self.place.weight)).flatten(1)


class FeatureCache:
    """The vision encoder, loaded at first use, with a cache of features; not a module, so exports do not contain it.

    Args:
        options: see `Options`.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.folder = Path(options.cache_dir) if options.cache_dir else None
        self.kept: OrderedDict[str, Tensor] = OrderedDict()
        self.encoder: Any = None

    def __call__(self, frames: Tensor) -> Tensor:  # (N, 1, H, W) in [0, 1]
        """Pooled features of each frame, (N, grid * grid, feature_channels) float32 on the frames' device."""
        keys = [self._key(frame) for frame in frames.detach().float().cpu()]
        known = {key: self.kept[key] if key in self.kept else self._read(key) for key in keys}
        cached = {key: features for key, features in known.items() if features is not None}
        missing = {key: index for index, key in enumerate(keys) if key not in cached}
        if missing:
            computed = self._encode(frames[list(missing.values())]).cpu()
            for key, features in zip(missing, computed, strict=True):
                cached[key] = features
                self._write(key, features)
        for key in keys:
            self._remember(key, cached[key])
        return torch.stack([cached[key] for key in keys]).to(frames.device)

    @torch.no_grad()
    def _encode(self, frames: Tensor) -> Tensor:
        if self.encoder is None:
            self.encoder = load_encoder(self.options.weights, self.options.revision)
        encoder = self.encoder.to(frames.device)
        size = encoder.config.backbone_config.image_size
        pixels = F.interpolate(frames.float(), size=(size, size), mode="bilinear", antialias=True).clamp(0, 1)
        pixels = ((pixels - MEAN) / STD).expand(-1, 3, -1, -1)
        with torch.autocast(frames.device.type, enabled=False):
            hidden = encoder(pixel_values=pixels).last_hidden_state  # (N, places, channels)
        if hidden.shape[2] != self.options.feature_channels:
            raise ValueError(
                f"model.conditioning.feature_channels is {self.options.feature_channels}, but {self.options.weights} "
                f"gives {hidden.shape[2]}; set it to that"
            )
        side = int(hidden.shape[1] ** 0.5)
        planes = hidden.transpose(1, 2).unflatten(2, (side, side)).float()
        return F.adaptive_avg_pool2d(planes, self.options.grid).flatten(2).transpose(1, 2)

    def _key(self, frame: Tensor) -> str:
        """Return a hash of the frame, the source of the weights and the pooling."""
        about = repr((self.options.weights, self.options.revision, self.options.grid, tuple(frame.shape)))
        return hashlib.blake2b(about.encode() + frame.numpy().tobytes(), digest_size=16).hexdigest()

    def _write(self, key: str, features: Tensor) -> None:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(self.folder / f"{key}.npy") as temporary, open(temporary, "wb") as stream:
                np.save(stream, features.numpy())

    def _read(self, key: str) -> Tensor | None:
        path = None if self.folder is None else self.folder / f"{key}.npy"
        if path is None or not path.is_file():
            return None
        try:
            return torch.from_numpy(np.load(path, allow_pickle=False))
        except (ValueError, OSError, EOFError):
            return None  # damaged: computed and written again

    def _remember(self, key: str, features: Tensor) -> None:
        self.kept[key] = features
        while len(self.kept) > KEPT_IN_MEMORY:
            self.kept.popitem(last=False)


def load_encoder(weights: str, revision: str | None) -> Any:
    """SAM 3's vision encoder in eval mode, without gradients.

    Raises:
        ValueError: when transformers is not installed, or the folder has another content.
        FileNotFoundError: when the weights cannot be downloaded or read.
    """
    try:
        from transformers import AutoConfig, Sam3Model, Sam3VisionModel
    except ImportError:
        raise ValueError(
            "model.conditioning sam3 needs transformers 5 or newer: pip install 'transformers>=5', "
            "or choose another conditioning"
        ) from None
    problem = None if Path(weights).is_dir() else no_answer(weights, "model.safetensors", revision)
    try:
        safe: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": False}
        safe["local_files_only"] = problem is not None
        config = AutoConfig.from_pretrained(weights, **safe)
        if config.model_type == "sam3_vision_model":
            encoder = Sam3VisionModel.from_pretrained(weights, use_safetensors=True, **safe)
        else:
            encoder = Sam3Model.from_pretrained(weights, use_safetensors=True, **safe).vision_encoder
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"model.conditioning.weights {weights}: cannot be loaded ({problem or str(error).splitlines()[0]}); "
            "facebook/sam3 is gated: ask for access on its page, then `hf auth login`; without a network, copy the "
            "Hub's cache and set HF_HUB_OFFLINE=1, or give a local folder"
        ) from None
    return encoder.eval().requires_grad_(False)


def build(options: Options) -> Sam3Conditioning:
    """Build the conditioning."""
    return Sam3Conditioning(options)
