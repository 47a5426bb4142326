"""The identity of a model: hashes of the weights that compute its tokens, and of those that decode them."""

import hashlib
import json
from dataclasses import asdict
from typing import Any, NamedTuple

from torch import nn

from utils.checkpoint import hash_weights

FRAME_TOKENS = ("adapters.", "tokenizer.latent_tokens", "tokenizer.encoder.", "tokenizer.quantize.", "resampler.")
ENCODES = (*FRAME_TOKENS, "conditioning.", "ladder.context.")
ONLY_DECODES = ("conditioning.tokens.embedder.", "conditioning.tokens.place_embed", "conditioning.tokens.not_sent")
ONLY_ENCODES = (
    "adapters.",
    "tokenizer.latent_tokens",
    "tokenizer.encoder.",
    "conditioning.segmenter.",
    "conditioning.tokens.summary.",
)


class Identity(NamedTuple):
    """Hashes of a model's weights and options.

    Args:
        tokens_id: 64 bits, of all that tokens depend on; of a ladder, of what their code in a file depends on. Another
            value: the same ids mean something else.
        pixels_id: 32 bits, of all that decoding depends on. Another value: another decoder of the same tokens.
    """

    tokens_id: int
    pixels_id: int


def identity(model: nn.Module, config: Any) -> Identity:
    """The identity of a model in the precision of its weights.

    Args:
        model: a TiTok.
        config: its ModelConfig.
    """
    options = asdict(config)
    stored = getattr(model, "segmenter", None) is not None  # then its weights are hashed, wherever they come from
    without = ("dropout", "cache_dir", *(("weights", "revision") if stored else ()))
    conditioning = {key: value for key, value in options["conditioning"].items() if key not in without}
    sequence = {key: value for key, value in options["sequence"].items() if key not in ("grid", "method")}
    if config.sequence.method != "attention":  # the hashes of attention say no method
        sequence["method"] = config.sequence.method
    shared = {
        "channels": config.channels,
        "vq_model": options["tokenizer"]["vq_model"],
        "layout": config.layout,
        "sequence": sequence,
        "conditioning": conditioning,
    }
    if config.layout == "ladder":  # it has no tokenizer, and works at any size
        shared = {"layout": config.layout, "context": options["ladder"]["context"]}
        options["adapters"], options["dit"] = None, options["ladder"]["refinement"]
    state = model.state_dict()
    encodes = {k: v for k, v in state.items() if k.startswith(ENCODES) and not k.startswith(ONLY_DECODES)}
    decodes = {k: v for k, v in state.items() if not k.startswith(ONLY_ENCODES)}
    tokens = _hash({**shared, "adapters": options["adapters"]}, hash_weights(encodes), 8)
    pixels = _hash({**shared, "decoder": config.decoder, "dit": options["dit"]}, hash_weights(decodes), 4)
    return Identity(tokens, pixels)


def frame_tokens_hash(model: nn.Module) -> str:
    """Hash of all weights that the tokens of frames depend on, without those of anatomy."""
    return hash_weights({k: v for k, v in model.state_dict().items() if k.startswith(FRAME_TOKENS)})


def _hash(options: dict[str, Any], weights: str, size: int) -> int:
    text = json.dumps([options, weights], sort_keys=True, default=str)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=size).digest(), "big")
