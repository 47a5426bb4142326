"""DiT decoder: noisy patches and the frame's tokens in one sequence; the noise schedule is in modeling/flow.py.

    tokens ─► context_embedder + token, slice, phase embeddings ──────────┐
    x_t ─► x_embedder + position ─► (+ layout_embedder of the tokens) ─► [context | patches] ─► blocks ─► final_layer
    t ─► t_embedder ─► adaLN_modulation, shared by the blocks                       ─► unpatchify ─► 3x3 head ─► x̂

The layout_embedder maps all tokens of a frame to its patches: a learned value per token, and a learned weight per token
and patch. So the decoder can draw an image before attention has learned which token describes which patch. Without it,
training stays at the mean image for hundreds of steps.

Source: Peebles & Xie, Scalable Diffusion Models with Transformers, 2023 (adaLN-Zero); Chen et al., PixArt-α, 2023, sec.
2.3 (modulation shared between blocks).
"""

from dataclasses import dataclass

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from modeling.layers.dit_blocks import DiTBlock, FinalLayer, rope_angles
from modeling.layers.transformer import (
    FixedTable,
    PhaseAttention,
    coarse_points,
    grid_points,
    harmonics,
    patchify,
    sincos_2d,
    sinusoid,
    transformer_size,
    zero_,
)
from utils.config.ranges import Pixels, TransformerSize, Width

SIZES: dict[str, TransformerSize] = {
    "S": {"width": 384, "num_layers": 12, "num_heads": 6},
    "B": {"width": 768, "num_layers": 12, "num_heads": 12},
    "L": {"width": 1024, "num_layers": 24, "num_heads": 16},
}


@dataclass
class DiTConfig:
    """Options of the DiT.

    Args:
        size: S, B, L or {"width", "num_layers", "num_heads"}.
        patch_size: side of a patch in pixels.
        head_channels: channels of the 3x3 convolutions after unpatchify.
        fusion: input of the anatomy tokens: `mid`, by cross-attention in every second block, or `early`, as a coarse
            map that is added to the noisy patches.
        draft: the tokenizer's decoder decodes a draft of each frame and the DiT corrects it; an untrained DiT returns
            the draft.
        gradient_checkpointing: store only the inputs of the blocks and compute each block again in the backward pass;
            for long cycles, since training.recompute_frames does not divide the phases of a slice.
    """

    size: str | TransformerSize = "B"
    patch_size: Pixels = 16
    head_channels: Width = 16
    fusion: str = "mid"
    draft: bool = False
    gradient_checkpointing: bool = False


def dimensions(size: str | TransformerSize) -> tuple[int, int, int]:
    """Return width, layers and heads of a size, S, B, L or a mapping; raise a ValueError for an invalid size."""
    width, num_layers, num_heads = transformer_size(size, SIZES, "dit.size")
    if width % (4 * num_heads):
        raise ValueError(f"dit.size: width {width} is not a multiple of 4 * num_heads = {4 * num_heads}")
    return width, num_layers, num_heads


class DiT(nn.Module):
    """Diffusion transformer on single-channel frames.

    Args:
        image_size: side of a frame in pixels.
        num_tokens: K, tokens a frame.
        token_size: channels of a codebook entry.
        token_rms: root mean square of these channels; the context is divided by it, because without unit variance
            training stays at the mean image.
        anatomy_tokens: M, tokens of the anatomy context.
        anatomy_width: channels of this context; 0 without anatomy.
        config: options.

    Raises:
        ValueError: when a size is not a multiple of another, as it must be.
    """

    frequency_width = 256
    phase_harmonics = 8
    layout_channels = 16
    map_channels = 8
    pos_embed: Tensor

    def __init__(
        self,
        image_size: int,
        num_tokens: int,
        token_size: int,
        token_rms: float,
        anatomy_tokens: int,
        anatomy_width: int,
        config: DiTConfig,
    ) -> None:
        super().__init__()
        width, num_layers, num_heads = dimensions(config.size)
        if image_size % config.patch_size:
            raise ValueError(f"image_size {image_size} is not a multiple of dit.patch_size {config.patch_size}")
        if config.fusion not in ("mid", "early") or (config.fusion == "early" and not anatomy_width):
            raise ValueError(
                f"dit.fusion is {config.fusion!r}: expected mid, or early where model.conditioning sends anatomy "
                "tokens to the decoder (resnet18, sam3, mask; not in layout sequence)"
            )
        mid = config.fusion == "mid"
        self.patch, self.grid, self.channels = config.patch_size, image_size // config.patch_size, config.head_channels
        self.gradient_checkpointing = config.gradient_checkpointing

        self.x_embedder = nn.Conv2d(1 + config.draft, width, config.patch_size, stride=config.patch_size)
        self.t_embedder = nn.Sequential(nn.Linear(self.frequency_width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.context_embedder = nn.Linear(token_size, width)
        self.token_embed = nn.Parameter(torch.empty(num_tokens, width))
        self.layout_value = nn.Parameter(torch.empty(num_tokens, token_size, self.layout_channels))
        self.layout_place = nn.Parameter(torch.empty(self.grid**2, num_tokens))
        self.layout_embedder = nn.Linear(self.layout_channels, width)
        self.slice_embedder = nn.Linear(self.frequency_width, width)
        self.phase_embedder = nn.Linear(2 * self.phase_harmonics, width)
        self.anatomy_embedder = nn.Linear(anatomy_width, width) if anatomy_width and mid else None
        self.map_decoder = self.map_embedder = None
        if not mid:
            self.map_decoder = nn.Linear(anatomy_tokens * anatomy_width, self.map_channels * self.grid**2)
            self.map_embedder = nn.Linear(self.map_channels, width)
        self.blocks = nn.ModuleList(
            DiTBlock(width, num_heads, cross=mid and bool(anatomy_width) and i % 2 == 1) for i in range(num_layers)
        )
        self.final_layer = FinalLayer(width, config.patch_size, config.head_channels)
        self.head = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(config.head_channels, config.head_channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(config.head_channels, 1, 3, padding=1),
        )
        patches, tokens = grid_points(self.grid, self.grid), coarse_points(num_tokens, self.grid)
        self.register_buffer("pos_embed", sincos_2d(patches, width, num_heads), persistent=False)
        self.angles = FixedTable(rope_angles(torch.cat([tokens, patches]), width // num_heads))
        near = (-torch.cdist(patches.float(), tokens.float()).square() / 2).softmax(1)  # a patch and a half around it
        self.init_weights(sincos_2d(tokens, width, num_heads), near, token_rms)

    @torch.no_grad()
    def init_weights(self, token_table: Tensor, near: Tensor, token_rms: float) -> None:  # (K, E), (P, K)
        """Xavier weights, zero biases; modulation, gates and output start at zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            if isinstance(module, PhaseAttention):
                zero_(module.proj)
        zero_(self.adaLN_modulation[-1], self.final_layer.adaLN_modulation[-1], self.head[-1])
        nn.init.xavier_uniform_(self.x_embedder.weight.flatten(1))
        if self.map_embedder is not None:
            zero_(self.map_embedder)
        for weight in (self.context_embedder.weight, self.layout_value):
            nn.init.normal_(weight, std=1 / (token_rms * self.context_embedder.in_features**0.5))
        self.layout_place.copy_(near)
        for embedder in (self.slice_embedder, self.phase_embedder):
            nn.init.normal_(embedder.weight, std=0.02)
        self.token_embed.copy_(token_table)

    def forward(
        self,
        x: Tensor,  # (G, T, 1, H, W) in [-1, 1] plus noise
        t: Tensor,  # (G,) flow time
        context: Tensor,  # (G, T, K, token_size) codebook entries
        slice_position: Tensor,  # (G,) in (0, 1)
        phase: Tensor,  # (G, T) in [0, 1)
        anatomy: Tensor | None = None,  # (G, M, anatomy_width)
        draft: Tensor | None = None,  # (G, T, 1, H, W) in [-1, 1], with the option `draft`
    ) -> Tensor:
        """The clean frames x̂, (G, T, 1, H, W)."""
        dtype = self.token_embed.dtype
        c = self.t_embedder(sinusoid(t, self.frequency_width, 1000.0).to(dtype))  # (G, E)
        modulation = self.adaLN_modulation(c).unflatten(1, (6, -1))
        place = self.slice_embedder(sinusoid(slice_position, self.frequency_width, 100.0).to(dtype))[:, None]
        place = place + self.phase_embedder(harmonics(phase, self.phase_harmonics).to(dtype))  # (G, T, E)
        tokens = self.context_embedder(context.to(dtype)) + self.token_embed + place.unsqueeze(2)  # (G, T, K, E)
        planes = x if draft is None else torch.cat([x, draft.to(x)], dim=2)
        patches = patchify(planes.flatten(0, 1).to(dtype), self.x_embedder) + self.pos_embed.to(dtype)
        values = torch.einsum("gtkc,kcv->gtkv", context.to(dtype), self.layout_value)
        patches = patches + self.layout_embedder(self.layout_place @ values.flatten(0, 1))  # (G * T, P, E)
        if anatomy is not None and self.map_decoder is not None and self.map_embedder is not None:
            coarse = self.map_decoder(anatomy.to(dtype).flatten(1)).unflatten(1, (self.grid**2, -1))  # (G, P, channels)
            patches = patches + self.map_embedder(coarse).repeat_interleave(x.shape[1], dim=0)  # equal at all phases
        h = torch.cat([tokens, patches.unflatten(0, x.shape[:2])], dim=2)  # (G, T, K + P, E)
        heart = None if anatomy is None or self.anatomy_embedder is None else self.anatomy_embedder(anatomy.to(dtype))
        for block in self.blocks:
            arguments = (h, modulation, self.angles.table, phase, heart)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                h = torch.utils.checkpoint.checkpoint(block, *arguments, use_reentrant=False)
            else:
                h = block(*arguments)
        out = self.final_layer(h[:, :, tokens.shape[2] :], c)  # (G, T, P, p * p * channels)
        image = self.head(self.unpatchify(out.flatten(0, 1))).unflatten(0, x.shape[:2])
        return image if draft is None else draft + image

    def unpatchify(self, x: Tensor) -> Tensor:  # (N, P, p * p * channels)
        """Arrange patches to images, (N, channels, H, W)."""
        x = x.view(len(x), self.grid, self.grid, self.patch, self.patch, self.channels)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(len(x), self.channels, *[self.grid * self.patch] * 2)
