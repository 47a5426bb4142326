"""Output of a training pass of the model, input of the losses."""

from typing import NamedTuple, TypeVar

from torch import Tensor

from modeling.heart.segmenter import FixedSegmenter
from modeling.ladder.ladder import LadderOutput
from modeling.quantizer.vq import Quantized

NEEDS_DECODER = "a decoder (model.decoder)"
NEEDS_SEGMENTER = "a segmenter (model.conditioning) and key frames (dataset.key_frames)"
Part = TypeVar("Part")


def require(part: Part | None, needed: str) -> Part:
    """Return the part; raise a ValueError if it is None."""
    if part is None:
        raise ValueError(f"one of the losses needs {needed}, which this recipe does not have")
    return part


class Prediction(NamedTuple):
    """Output of a training pass.

    Args:
        image: (B, D, T, 1, H, W) the original.
        reconstruction: (B, D, T, 1, H, W) x̂, not clamped.
        t: (B,) flow time at which x̂ was predicted; 0 for the tokenizer's own decoder.
        one_step: (B,) bool, True if x̂ was decoded from tokens alone, without a noisy image.
        latents: (B * D, T, K, E) encoder latents before projection.
        quantized: quantized latents of all B * D * T frames.
        ids: tokens (B * D * T, K), also from a token cache; (B, N) of whole cines; -1 in padding.
        codebook: (codebook_size, token_size).
        logits: (B, D, 2, 4, H, W) of the segmented originals at ED and ES; None without segmenter or key frames.
        segmenter: segmenter with fixed weights, with the key frames of x̂; None without segmenter or key frames.
        context: (B * D, T, K, token_size) the vectors of the tokens.
        step: optimizer step.
        ladder: output of the ladder; None in other models.

    Reconstruction, latents, quantized, ids and codebook are None in a model that only segments. Latents, quantized and
    context are None with a token cache.
    """

    image: Tensor
    reconstruction: Tensor | None
    t: Tensor
    one_step: Tensor
    latents: Tensor | None = None
    quantized: Quantized | None = None
    ids: Tensor | None = None
    codebook: Tensor | None = None
    logits: Tensor | None = None
    segmenter: FixedSegmenter | None = None
    context: Tensor | None = None
    step: int = 0
    ladder: LadderOutput | None = None

    def error(self) -> Tensor:
        """x̂ - x, (B, D, T, 1, H, W)."""
        return require(self.reconstruction, NEEDS_DECODER) - self.image

    def tokens(self) -> tuple[Quantized, Tensor]:
        """The quantized latents, and the codebook."""
        needed = "a tokenizer that encodes (model.decoder dit or titok, no dataset.tokens)"
        return require(self.quantized, needed), require(self.codebook, needed)

    def ladder_output(self) -> LadderOutput:
        """The output of the ladder."""
        return require(self.ladder, "a ladder (model.layout)")

    def key_logits(self) -> Tensor:
        """Logits of the originals at ED and ES, (B, D, 2, 4, H, W)."""
        return require(self.logits, NEEDS_SEGMENTER)

    def fixed_segmenter(self) -> FixedSegmenter:
        """The segmenter with fixed weights."""
        return require(self.segmenter, NEEDS_SEGMENTER)
