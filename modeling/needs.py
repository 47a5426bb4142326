"""Parts of a recipe that losses need; checked before weights are read."""

import torch

from modeling.config import ModelConfig
from utils.config import registry

REMEDIES = {
    "decoder": "set model.decoder to dit or titok",
    "encoder": "leave dataset.tokens out, and set model.decoder to dit or titok",
    "segmenter": "set model.conditioning={name: resnet18}",
    "key_frames": "set dataset.unit=slice and dataset.key_frames=true, or dataset.unit=stack",
    "labels": "convert a dataset with ground-truth masks of ED and ES",
    "stacks": "set dataset.unit=stack",
    "resampler": "set model.layout=sequence",
    "ladder": "set model.layout=ladder",
}
WORDS = {
    "decoder": "a decoder", "encoder": "encoded tokens", "segmenter": "a segmenter", "key_frames": "key frames",
    "labels": "labels", "stacks": "stacks", "resampler": "a resampler",
    "ladder": "a ladder",
}  # fmt: skip


def provides(model: ModelConfig, unit: str, key_frames: bool, cached: bool) -> set[str]:
    """Return the keys of `REMEDIES` that a recipe provides; labels are assumed to be in the data.

    Args:
        model: options of the model.
        unit: dataset.unit.
        key_frames: dataset.key_frames.
        cached: whether dataset.tokens is set.
    """
    chosen = model.conditioning
    with torch.device("meta"):
        conditioning = registry.build("modeling.conditioning", chosen.get("name", "none"), chosen, "model.conditioning")
    provided = {
        "decoder": model.has_tokenizer,
        "encoder": model.has_tokenizer and not cached,
        "segmenter": conditioning.segmenter is not None and model.layout != "ladder",
        "key_frames": key_frames or unit == "stack",
        "labels": True,
        "stacks": unit == "stack",
        "resampler": model.has_tokenizer and model.layout == "sequence",
        "ladder": model.layout == "ladder",
    }
    return {name for name, is_provided in provided.items() if is_provided}


def check_needs(needs: dict[str, tuple[str, ...]], has: set[str]) -> None:
    """Check that a recipe provides the parts that its losses need.

    Args:
        needs: name of a loss -> keys of `REMEDIES`.
        has: from `provides`.

    Raises:
        ValueError: for the first loss whose needs are not met.
    """
    for loss, wanted in needs.items():
        for need in wanted:
            if need not in has:
                raise ValueError(
                    f"losses.{loss} needs {WORDS[need]}, which this recipe does not have: {REMEDIES[need]}, or give "
                    f"losses={{...}} without {loss}"
                )
