"""Vector quantizer: each latent token is replaced by its nearest codebook entry."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn


class Quantized(NamedTuple):
    """Result of quantization.

    Args:
        vectors: (N, C, 1, K) input of the decoder, with a straight-through gradient to the encoder.
        z: (N, K, C) latents of the encoder, on the unit sphere if the codebook is.
        codes: (N, K, C) the chosen codebook entries, differentiable with respect to the codebook.
        indices: (N, K) int64 ids in [0, codebook_size).
    """

    vectors: Tensor
    z: Tensor
    codes: Tensor
    indices: Tensor


class VectorQuantizer(nn.Module):
    """Nearest-neighbour quantizer, optionally on the unit sphere.

    With `bypass` set, latents pass unchanged: the continuous warm-up of a tokenizer that starts from random weights.

    Source: van den Oord et al., Neural Discrete Representation Learning, 2017, eq. 1-3; L2-normalised codes from
    Yu et al., Vector-quantized Image Modeling with Improved VQGAN, 2022, section 3.2.
    """

    def __init__(self, codebook_size: int, token_size: int, use_l2_norm: bool) -> None:
        super().__init__()
        self.codebook_size, self.token_size, self.use_l2_norm = codebook_size, token_size, use_l2_norm
        self.embedding = nn.Embedding(codebook_size, token_size)
        nn.init.uniform_(self.embedding.weight, -1.0 / codebook_size, 1.0 / codebook_size)
        self.bypass = False

    def codebook(self) -> Tensor:
        """The codebook entries at the input of the decoder, (codebook_size, token_size)."""
        weight = self.embedding.weight.float()
        return F.normalize(weight, dim=-1) if self.use_l2_norm else weight

    def forward(self, z: Tensor) -> Quantized:  # (N, C, 1, K)
        """Quantize latents; distances are computed in float32 also under autocast."""
        with torch.autocast(z.device.type, enabled=False):
            z = z.float().squeeze(2).transpose(1, 2)  # (N, K, C)
            if self.use_l2_norm:
                z = F.normalize(z, dim=-1)
            codebook = self.codebook()
            indices = nearest(z.reshape(-1, z.shape[-1]), codebook).view(z.shape[:2])  # (N, K)
            codes = z.detach() if self.bypass else F.embedding(indices, codebook)  # (N, K, C)
            straight = z + (codes - z).detach() if z.requires_grad else codes  # frozen: equal to the lookup of the ids
            return Quantized(straight.transpose(1, 2).unsqueeze(2), z, codes, indices)

    def lookup(self, indices: Tensor) -> Tensor:  # (N, K)
        """Codebook entries of ids, (N, C, 1, K)."""
        return F.embedding(indices, self.codebook()).transpose(1, 2).unsqueeze(2)

    @torch.no_grad()
    def reseed(self, dead: Tensor, z: Tensor, seed: int) -> None:  # (V,) bool, (M, C)
        """Replace unused entries by latents.

        Args:
            dead: True for the entries to replace.
            z: latents to choose from, without repeats if there are enough; equal on all ranks.
            seed: random seed of the choice.
        """
        count = int(dead.sum())
        generator = torch.Generator().manual_seed(seed)
        rounds = [torch.randperm(len(z), generator=generator) for _ in range(-(-count // len(z)))]
        if rounds:
            chosen = torch.cat(rounds)[:count].to(z.device)
            self.embedding.weight[dead] = z[chosen].to(self.embedding.weight)

    @torch.no_grad()
    def fit_codebook(self, z: Tensor, seed: int, iterations: int = 10) -> None:
        """Initialise the entries by k-means on latents.

        Args:
            z: (M, token_size) latents, M >= codebook_size.
            seed: random seed of the starting points; equal seeds give equal codebooks on all ranks.
            iterations: Lloyd iterations.

        Raises:
            ValueError: when there are fewer latents than codebook entries.
        """
        if len(z) < self.codebook_size:
            raise ValueError(
                f"k-means needs at least {self.codebook_size} latents for as many codebook entries, found {len(z)}; "
                "raise training.global_batch_size or lower the codebook size"
            )
        if self.use_l2_norm:
            z = F.normalize(z, dim=-1)
        points = z.double().cpu().numpy()
        start = points[np.random.default_rng(seed).choice(len(points), self.codebook_size, replace=False)]
        centers, _ = kmeans2(points, start, iter=iterations, minit="matrix", missing="warn")
        self.embedding.weight.copy_(torch.from_numpy(centers).to(self.embedding.weight))


def nearest(z: Tensor, codebook: Tensor) -> Tensor:  # (M, C), (V, C)
    """Index of the codebook entry at the smallest squared distance, (M,)."""
    distance = torch.addmm(codebook.square().sum(1), z, codebook.T, alpha=-2)  # |z|² is the same for every entry
    return distance.argmin(dim=1)
