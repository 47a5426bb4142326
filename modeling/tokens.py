"""The token tensor: how ids, key-frame indices and anatomy lie in one LongTensor, and what is refused."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from utils.seeding import stable_seed

NOT_SENT = -1


class TokenParts(NamedTuple):
    """What a token tensor holds: ed and es (B,), ids (B, D, T, K), anatomy (B, D, 2 * A)."""

    ed: Tensor
    es: Tensor
    ids: Tensor
    anatomy: Tensor


@dataclass(frozen=True)
class FrameLayout:
    """Layout `frame`: (B, D, 2 + T*K + 2*A) = index of ED, index of ES, K ids a phase, A ids of ED, A ids of ES.

    An id of -1 was not sent and costs no bits; ids are local to their own codebook.

    Args:
        num_tokens: K, latent tokens a frame.
        codebook_size: ids a latent token can take.
        num_anatomy: A, anatomy tokens a key frame.
        anatomy_codebook_size: ids an anatomy token can take.
    """

    num_tokens: int
    codebook_size: int
    num_anatomy: int
    anatomy_codebook_size: int

    def pack(self, parts: TokenParts) -> Tensor:
        """One LongTensor (B, D, 2 + T*K + 2*A); the indices of ED and ES stand in every slice's row."""
        slices = parts.ids.shape[1]
        keys = torch.stack([parts.ed, parts.es], dim=1)[:, None].expand(-1, slices, -1)
        return torch.cat([keys, parts.ids.flatten(2), parts.anatomy], dim=2)

    def unpack(self, tokens: Tensor) -> TokenParts:
        """Take a token tensor apart.

        Raises:
            ValueError: for another dtype, number of axes or length, and for ids or indices out of range.
        """
        check_dtype(tokens)
        payload = tokens.shape[-1] - 2 - 2 * self.num_anatomy
        if tokens.ndim != 3 or payload <= 0 or payload % self.num_tokens:
            raise ValueError(
                f"tokens of shape {tuple(tokens.shape)}: expected (B, D, 2 + T*{self.num_tokens} + "
                f"{2 * self.num_anatomy}) as encode returns it, or (B, {self.num_tokens}) for single images"
            )
        keys, ids, anatomy = tokens.split([2, payload, 2 * self.num_anatomy], dim=2)
        ids = ids.unflatten(2, (-1, self.num_tokens))
        check_range(ids, self.codebook_size, "latent token")
        check_range(anatomy, self.anatomy_codebook_size, "anatomy token")
        check_range(keys, ids.shape[2], "ED/ES index")
        return TokenParts(keys[:, 0, 0], keys[:, 0, 1], ids, anatomy)


def anatomy_is_sent(sample_seed: Tensor, dropout: float) -> Tensor:  # (B,)
    """Which training samples' anatomy is sent, (B,) bool: a function of each sample's seed alone."""
    drawn = [stable_seed(seed, "anatomy") / 2**63 for seed in sample_seed.tolist()]
    return torch.tensor(drawn, device=sample_seed.device) >= dropout


def check_dtype(tokens: Tensor) -> None:
    """Raise ValueError unless tokens are int64."""
    if tokens.dtype != torch.long:
        raise ValueError(f"tokens are {tokens.dtype}: expected torch.int64 as encode returns them; cast with .long()")


def check_range(ids: Tensor, size: int, what: str) -> None:
    """Raise ValueError unless all ids lie in [-1, size)."""
    if ids.numel() and (int(ids.min()) < NOT_SENT or int(ids.max()) >= size):
        bad = int(ids.max()) if int(ids.max()) >= size else int(ids.min())
        raise ValueError(
            f"{what} {bad} is out of range: expected -1 (not sent) or 0 to {size - 1}; wrong model or file?"
        )


def check_images(x: Tensor, channels: int, image_size: int) -> None:
    """Refuse what is not a batch of windowed images of this model's size.

    Args:
        x: (B, C, H, W, D, T) or (B, C, H, W), floating point in [0, 1].
        channels: C expected.
        image_size: H and W expected, in pixels.

    Raises:
        ValueError: for another type, shape, size, value range, or NaN.
    """
    expected = f"(B, {channels}, {image_size}, {image_size}, D, T) or (B, {channels}, {image_size}, {image_size})"
    if not x.is_floating_point():
        raise ValueError(f"images are {x.dtype}: expected floating point in [0, 1]; see data/preprocess.py")
    if x.ndim not in (4, 6) or tuple(x.shape[1:4]) != (channels, image_size, image_size):
        raise ValueError(
            f"images of shape {tuple(x.shape)}: expected {expected}; bring files to this grid with data/preprocess.py"
        )
    if not x.numel():
        raise ValueError(f"images of shape {tuple(x.shape)} are empty: expected {expected}")
    low, high = (float(v) for v in torch.aminmax(x))
    if not (low == low and high == high and abs(low) != float("inf") and abs(high) != float("inf")):
        raise ValueError("images hold NaN or infinite values: expected finite values in [0, 1]; repair the scan first")
    if low < 0 or high > 1:
        raise ValueError(
            f"images range from {low:.4g} to {high:.4g}: expected [0, 1]; window the volume with data/preprocess.py"
        )


def check_knobs(decoder: str, steps: int, realism: float) -> None:
    """Refuse decode knobs that contradict each other, with a ValueError."""
    if not 0 <= realism <= 1:
        raise ValueError(f"realism = {realism}: expected 0 (highest PSNR) to 1 (a full sample)")
    if (steps > 1) != (realism > 0):
        raise ValueError(
            f"steps = {steps} with realism = {realism}: a sample needs both steps > 1 and realism > 0; "
            "the one-step decode is steps = 1 with realism = 0"
        )
    if realism > 0 and decoder != "dit":
        raise ValueError("realism needs model.decoder dit; this model decodes with the tokenizer's own decoder")
