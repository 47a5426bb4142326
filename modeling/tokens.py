"""The token tensor: how ids, key-frame indices and anatomy lie in one LongTensor, and what is refused."""

from collections.abc import Sequence
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

    def unpack_images(self, tokens: Tensor) -> TokenParts:
        """Take tokens (B, K) of single images for those of slices of one phase, without anatomy.

        Raises:
            ValueError: for another dtype or length, and for ids out of range.
        """
        check_dtype(tokens)
        if tokens.shape[1] != self.num_tokens:
            raise ValueError(f"tokens of shape {tuple(tokens.shape)}: expected (B, {self.num_tokens})")
        check_range(tokens, self.codebook_size, "latent token")
        zero, nothing = (
            torch.zeros_like(tokens[:, 0]),
            tokens.new_full((len(tokens), 1, 2 * self.num_anatomy), NOT_SENT),
        )
        return TokenParts(zero, zero, tokens[:, None, None], nothing)

    def keep(self, count: int | None) -> int:
        """How many tokens of each frame are sent; see `kept`."""
        return kept(count, self.num_tokens)


@dataclass(frozen=True)
class SequenceLayout:
    """Layout `sequence`: (B, N) ids for a whole cine, -1 where not sent; what was seen of anatomy is inside them.

    Args:
        num_tokens: N.
        codebook_size: ids a token can take.
    """

    num_tokens: int
    codebook_size: int
    num_anatomy: int = 0
    anatomy_codebook_size: int = 0

    def check(self, tokens: Tensor) -> None:
        """Raise ValueError for tokens that are no (B, N) of this layout."""
        check_dtype(tokens)
        if tokens.ndim != 2 or tokens.shape[1] != self.num_tokens:
            raise ValueError(
                f"tokens of shape {tuple(tokens.shape)}: expected (B, {self.num_tokens}) as encode returns it"
            )
        check_range(tokens, self.codebook_size, "token")

    def keep(self, count: int | None) -> int:
        """How many tokens of the cine are sent; see `kept`."""
        return kept(count, self.num_tokens)


def check_batch(tokens: Tensor) -> None:
    """Raise ValueError for tokens of nothing."""
    if not tokens.numel():
        raise ValueError(f"tokens of shape {tuple(tokens.shape)}: nothing to decode; give at least one cine or image")


def first_of(keep: Tensor, available: int) -> Tensor:  # (B,)
    """Which of the tokens are the first `keep`, (B, available) bool."""
    return torch.arange(available, device=keep.device) < keep[:, None]


def budgets(sample_seed: Tensor, choices: Sequence[int]) -> Tensor | None:  # (B,)
    """How many tokens of each training sample reach the decoder, (B,), one of `choices`: a function of its seed."""
    if not choices:
        return None
    drawn = [choices[stable_seed(seed, "budget") % len(choices)] for seed in sample_seed.tolist()]
    return torch.tensor(drawn, device=sample_seed.device)


def kept(count: int | None, available: int) -> int:
    """How many tokens are sent, all of them for None; ValueError for a number that there is not."""
    if count is None:
        return available
    if not 1 <= count <= available:
        raise ValueError(f"keep_tokens = {count}: expected 1 to {available}, the tokens of this model's layout")
    return count


def check_grid(grid: Sequence[int] | None, configured: Sequence[int] | None) -> tuple[int, int]:
    """Slices and phases that a sequence decodes to, as the call says, else as the config does.

    Raises:
        ValueError: where neither says it, or a number is not positive.
    """
    found = configured if grid is None else grid
    if found is None:
        raise ValueError(
            "tokens of a whole cine do not say its grid: give grid=(slices, phases), or model.sequence.grid"
        )
    if len(found) != 2 or min(found) < 1:
        raise ValueError(f"grid = {tuple(found)}: expected (slices, phases), both positive")
    return int(found[0]), int(found[1])


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
