"""TiTok-MRI: a 4-D cine to tokens and back.

    x (B, C, H, W, D, T) ─► encoder ─► tokens (B, D, 2 + T*K + 2*A), layout `frame`   ─► decoder ─► x̂
                                  └──► tokens (B, N), layout `sequence` ──────────────┘
    x (B, 1, H, W, D, T) ─► ladder ─► tokens (B, D, 9 + N + T*R + R*H*W), layout `ladder` ─► ladder ─► x̂

The modules are attributes of TiTok, so their names are the keys of a checkpoint. The computation is in
modeling/encoder.py, modeling/decoder.py and modeling/ladder, with axes (B, D, T, C, H, W); only `encode` and
`decode_tokens` differ.

A generative decoder may invent anatomy: research use only, not a medical device.
"""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from modeling.adapters import Adapters
from modeling.config import ModelConfig
from modeling.decoder import FrameDecoder
from modeling.dit import DiT
from modeling.draws import Draws
from modeling.encoder import Chunks, FrameEncoder
from modeling.flow import SamplerOptions
from modeling.frames import decode_frames, encode_frames
from modeling.heart.phases import at_phases
from modeling.heart.segmenter import FixedSegmenter, FrameSegmenter
from modeling.inputs import check_cine
from modeling.ladder.ladder import Ladder
from modeling.ladder.region import Region
from modeling.ladder.tokens import Target, decode_cines, encode_cine
from modeling.prediction import Prediction
from modeling.resampling.attention import AttentionResampler
from modeling.resampling.base import Resampler
from modeling.resampling.harmonic import HarmonicResampler
from modeling.tokenizer import Tokenizer, vit_size
from modeling.weights.identity import Identity, identity
from modeling.weights.saving import Saving
from utils.checkpoint import hash_weights
from utils.config import registry
from utils.device import exact_float32
from utils.layout import FrameLayout, SequenceLayout, TokenLayout
from utils.types import Batch


class TiTok(nn.Module, Saving):
    """A whole model; modeling/weights/saving.py loads, saves and publishes it.

    Args:
        config: the model as plain data.

    Raises:
        ValueError: when options are out of range or contradict each other.
    """

    layout: TokenLayout
    tokenizer: Tokenizer  # None if the model only segments

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.chunks = config, Chunks()
        self.taught_by: list[str] = []
        self.token_counts: list[int] | None = None  # of the frame codebook, as seen in training
        self.training_record: dict[str, Any] | None = None
        chosen, vq = config.conditioning, config.tokenizer.vq_model
        self.conditioning: Any = registry.build(
            "modeling.conditioning", chosen.get("name", "none"), chosen, "model.conditioning"
        )
        self.tokenizer = None  # type: ignore[assignment]
        self.adapters: Adapters | None = None
        self.resampler: Resampler | None = None
        self.dit: DiT | None = None
        self.ladder: Ladder | None = None
        if config.layout == "ladder":
            self.ladder = Ladder(config.ladder)
            self.layout = self.ladder.layout
        if config.decoder != "none":
            self._build_tokenizer(config)
        if config.decoder == "dit":
            token_rms = vq.token_size**-0.5 if vq.use_l2_norm else 1.0
            width = self.conditioning.width if self.resampler is None else 0  # the tokens of a cine include its anatomy
            self.dit = DiT(
                config.image_size,
                vq.num_latent_tokens,
                vq.token_size,
                token_rms,
                2 * self.conditioning.num_tokens,
                width,
                config.dit,
            )
        self.encoder = FrameEncoder(self.tokenizer, self.adapters, self.conditioning, self.resampler, self.chunks)
        self.decoder = FrameDecoder(
            self.tokenizer, self.conditioning, self.resampler, self.dit, config.dit.draft, config.channels, self.chunks
        )

    def _build_tokenizer(self, config: ModelConfig) -> None:
        """Tokenizer, adapters and, in layout `sequence`, the resampler."""
        vq, conditioning = config.tokenizer.vq_model, self.conditioning
        width = vit_size(vq.vit_enc_model_size)[0]
        self.tokenizer = Tokenizer(vq, with_decoder=config.keeps_decoder)
        self.adapters = Adapters(width, config.adapters) if config.channels == 1 else None
        if config.layout == "frame":
            anatomy = (conditioning.num_tokens, conditioning.codebook_size)
            self.layout = FrameLayout(vq.num_latent_tokens, vq.codebook_size, *anatomy)
            return
        sizes, options = (vq.num_latent_tokens, vq.token_size, vq.use_l2_norm), config.sequence
        if options.method == "harmonic":
            self.resampler = HarmonicResampler(*sizes, options.num_tokens)
        else:
            self.resampler = AttentionResampler(width, *sizes, conditioning.width, options)
        self.layout = SequenceLayout(options.num_tokens, self.resampler.codebook_size)

    @torch.inference_mode()
    @exact_float32()
    def encode(
        self,
        x: Tensor,
        ed: Tensor | int | None = None,
        es: Tensor | int | None = None,
        keep_tokens: int | None = None,
        mask: Tensor | None = None,
        bytes_per_frame: float | None = None,
        psnr: float | None = None,
        step: float | None = None,
        region: Region | None = None,
    ) -> Tensor:
        """Images to tokens, in the precision of the weights: `model.to(torch.bfloat16)` is faster and changes some.

        Args:
            x: (B, C, H, W, D, T) or (B, C, H, W), in [0, 1], H = W = image_size. Layout `ladder`: (B, 1, H, W, D, T) of
                any size.
            ed: phase of end-diastole, an int or (B,); chosen when not given.
            es: phase of end-systole; chosen when not given.
            keep_tokens: number of transmitted tokens per frame (layout `sequence`: per cine), from the first; the
                others become -1 and cost no bits. The model should be trained with `training.keep_tokens`.
            mask: (B, H, W, D, T) ground-truth labels, for a model of conditioning `mask` alone: an upper bound.
            bytes_per_frame: layout `ladder`: bytes of the tokens in a file, without its header. Give one of three.
            psnr: layout `ladder`: mean PSNR over frames in dB, at least.
            step: layout `ladder`: step of the quantizer.
            region: layout `ladder`: where the step is finer, see modeling/ladder/region.py; for one cine.

        Returns:
            (B, D, 2 + T*K + 2*A) int64, or (B, K) for single images; in layout `sequence` (B, N); in layout `ladder`
            (B, D, 9 + N + T*R + R*H*W).

        Raises:
            ValueError: for a wrong size, type or range, NaN, or a phase out of range.
        """
        self.check_tokens()
        if self.ladder is not None:
            if ed is not None or es is not None or keep_tokens is not None or mask is not None:
                raise ValueError("a model of layout ladder takes no ed, es, keep_tokens or mask; leave them out")
            check_cine(x)
            target = Target(bytes_per_frame, psnr, step)
            cines = rearrange(x, "b 1 h w d t -> b d t h w")
            return torch.stack([encode_cine(self.ladder, cine, target, region) for cine in cines])
        if not bytes_per_frame is psnr is step is region is None:
            raise ValueError(
                f"bytes_per_frame, psnr, step and region are for layout ladder, but this model has layout "
                f"{self.layout.name}; leave them out, or give keep_tokens"
            )
        return encode_frames(self.encoder, self.layout, self.config, x, ed, es, keep_tokens, mask)

    @torch.inference_mode()
    @exact_float32()
    def decode_tokens(
        self,
        tokens: Tensor,
        steps: int = 1,
        realism: float = 0.0,
        seed: int | None = None,
        sampler: str = "euler",
        grid: tuple[int, int] | None = None,
    ) -> Tensor:
        """Tokens alone to images.

        Args:
            tokens: (B, D, 2 + T*K + 2*A), (B, K) or (B, N) int64, as `encode` returns them.
            steps: number of sampler steps; 1 with realism 0.
            realism: a in [0, 1]; the result is x̂ + a (sample - x̂), where x̂ is the one-step decode of highest PSNR.
            seed: seed of the noise, which is a function of (seed, slice, phase).
            sampler: `euler`, one network evaluation per step, or `heun`, two.
            grid: (D, T) of the decoded cine, for layout `sequence` only; None for model.sequence.grid.

        Returns:
            (B, C, H, W, D, T) or (B, C, H, W), in [0, 1].

        Raises:
            ValueError: for tokens of another shape or range, or options that contradict each other.
        """
        self.check_tokens()
        options = SamplerOptions(steps, realism, seed or 0, sampler)
        options.check(self.config.samples_with)
        if not tokens.numel():
            raise ValueError(
                f"tokens of shape {tuple(tokens.shape)}: nothing to decode; give at least one cine or image"
            )
        if self.ladder is None:
            return decode_frames(self.encoder, self.decoder, self.layout, self.config, tokens, options, grid)
        if grid is not None:
            raise ValueError(f"grid = {tuple(grid)}: tokens of layout ladder contain their grid; leave it out")
        cines = decode_cines(self.ladder, tokens, options)
        return rearrange(cines, "b d t h w -> b 1 h w d t")

    def forward(self, batch: Batch, draws: Draws) -> Prediction:
        """Run one training pass, with gradients to all trainable parameters."""
        if self.ladder is not None:
            ladder, decoded = self.ladder(batch)
            return Prediction(batch.image, decoded, draws.t, draws.one_step, step=draws.step, ladder=ladder)
        encoded = self.encoder.train(batch, draws)
        if self.tokenizer is None:
            return Prediction(batch.image, None, draws.t, draws.one_step, logits=encoded.logits, step=draws.step)
        t = torch.zeros_like(draws.t) if self.dit is None else draws.t  # the decoder of the tokenizer has no flow time
        frames = self.decoder.train(batch, encoded, draws)
        segmenter = None
        if self.segmenter is not None and batch.has_key_frames:
            segmenter = FixedSegmenter(self.segmenter, at_phases(frames, batch.key_frames))
        return Prediction(
            image=batch.image, reconstruction=frames, t=t, one_step=t == 0, latents=encoded.latents,
            quantized=encoded.quantized, ids=encoded.ids, codebook=self.tokenizer.quantize.codebook(),
            logits=encoded.logits, segmenter=segmenter, context=encoded.context, step=draws.step,
        )  # fmt: skip

    @property
    def segmenter(self) -> FrameSegmenter | None:
        """The segmenter of the conditioning, or None."""
        return self.conditioning.segmenter

    @property
    def num_codes(self) -> int:
        """Entries of the codebook; 0 in a model that only segments."""
        return 0 if self.tokenizer is None else self.layout.codebook_size

    def recompute(self, frames: int) -> None:
        """Set the number of frames whose activations are stored at a time in training; the others are computed again.

        Args:
            frames: frames of a chunk; chunks of the DiT are whole slices, at least one. 0 stores all activations.

        Raises:
            ValueError: for a negative number.
        """
        if frames < 0:
            raise ValueError(f"training.recompute_frames is {frames}: expected a number of frames, or 0 to keep all")
        self.chunks.recompute = frames
        if self.segmenter is not None:
            self.segmenter.recompute_frames = frames

    def bypass_quantizer(self, bypass: bool) -> None:
        """Switch the quantizer off, so that latents pass unchanged, or on."""
        if self.tokenizer is not None:
            self.tokenizer.quantize.bypass = bypass

    def check_tokens(self) -> None:
        """Raise a ValueError if the model only segments and has no tokens."""
        if self.config.only_segments:
            raise ValueError("this model only segments (model.decoder none): it has no tokens; load a trained stage")

    def teachers(self) -> list[str]:
        """Return the hashes of all segmenters used in the training of this model, including its own segmenter."""
        own = [] if self.segmenter is None else [hash_weights(self.segmenter.state_dict())]
        return sorted({*self.taught_by, *own})

    def identity(self) -> Identity:
        """Hashes of all that the tokens, and the decoded images, depend on."""
        return identity(self, self.config)
