"""TiTok-MRI's face: a 4-D cine to tokens and back. Composes the parts and holds no math of its own.

    x (B, C, H, W, D, T) ─► adapters ─► tokenizer ─► tokens (B, D, 2 + T*K + 2*A) ─► decoder (dit | titok) ─► x̂
                                          └─► resampler ─► tokens (B, N), layout `sequence`

A generative decoder may invent anatomy: research use only, not a medical device.
"""

from dataclasses import asdict
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from modeling import flow
from modeling.config import ModelConfig
from modeling.heart.phases import along_stack, at_phases, cycle
from modeling.heart.segmenter import Judge
from modeling.layers.recompute import recomputed
from modeling.parts import Parts
from modeling.prediction import Prediction
from modeling.tokens import NOT_SENT, SequenceLayout, TokenParts, check_batch, check_grid, check_images
from modeling.weights.pretrained import read_pretrained, write_pretrained, write_published
from utils.device import exact_float32


class TiTok(Parts):
    """A whole model; see `Parts` for what it is made of."""

    @classmethod
    def from_pretrained(cls, source: str | Path, revision: str | None = None, cache_dir: str | None = None) -> "TiTok":
        """Load a trained TiTok-MRI model or a published TiTok tokenizer.

        Args:
            source: a folder, a `.bin` of TiTok's repository with its YAML beside it, or a Hub id; see
                modeling/weights/hub.py.
            revision: of a Hub id, a commit, tag or branch.
            cache_dir: where downloads are kept; the Hub's own cache (HF_HOME) when not given.

        Returns:
            The model in eval mode; C is 1 for TiTok-MRI and 3 for a published tokenizer.

        Raises:
            FileNotFoundError: when the weights cannot be had.
            ValueError: when config and weights do not fit key for key, or the tokens are continuous.
        """
        return read_pretrained(cls, ModelConfig, source, revision, cache_dir).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, each whole or not at all.

        Raises:
            ValueError: for a model that encodes ground truth, which is not to be handed on.
        """
        if self.conditioning.leak is not None:
            raise ValueError(f"not saved: {self.conditioning.leak}; train with another model.conditioning to publish")
        write_pretrained(Path(folder), asdict(self.config), self.state_dict(), self.teachers())

    def save_tokenizer(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write the tokenizer alone in the layout of the published ones, without the adapters."""
        write_published(Path(folder), asdict(self.config.tokenizer.vq_model), self.state_dict(), dtype)

    @torch.inference_mode()
    @exact_float32()
    def encode(
        self,
        x: Tensor,
        ed: Tensor | int | None = None,
        es: Tensor | int | None = None,
        keep_tokens: int | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Images to tokens, in the precision of the weights: `model.to(torch.bfloat16)` is faster and changes some.

        Args:
            x: (B, C, H, W, D, T) or (B, C, H, W), in [0, 1], H = W = image_size.
            ed: phase of end-diastole, an int or (B,); chosen when not given.
            es: phase of end-systole; chosen when not given.
            keep_tokens: how many tokens of each frame (layout `sequence`: of the cine) to send, from the first; the
                others become -1 and cost nothing. A model trained with `training.keep_tokens` decodes them well.
            mask: (B, H, W, D, T) ground-truth labels, for a model of conditioning `mask` alone: an upper bound.

        Returns:
            (B, D, 2 + T*K + 2*A) int64, or (B, K) for single images; in layout `sequence` (B, N).

        Raises:
            ValueError: for a wrong size, type or range, NaN, or a phase that is not there.
        """
        self.check_tokens()
        check_images(x, self.config.channels, self.config.image_size)
        keep = self.layout.keep(keep_tokens)
        if mask is not None and (self.conditioning.leak is None or mask.shape != (len(x), *x.shape[2:])):
            raise ValueError(
                f"mask of shape {tuple(mask.shape)}: only a model of conditioning mask looks at one, (B, H, W, D, T) "
                "of the images' size; leave it out"
            )
        single = x.ndim == 4
        if single:
            x = x[..., None, None]
        latents = self.latents_of_cine(x)
        if self.resampler is not None:
            slices, phases = x.shape[4:]
            anatomy = self.conditioning.context(self.see_anatomy(x, ed, es, mask)[2].flatten(0, 1))
            _, ids = self.resampler.compress(
                latents,
                along_stack(slices, x.device).expand(len(x), -1),
                cycle(phases, x.device).expand(len(x), -1),
                anatomy=None if anatomy is None else anatomy.unflatten(0, (-1, slices)),
            )
        else:
            parts = latents.flatten(0, 2).split(self.frames_per_chunk)
            ids = torch.cat([self.tokenizer.quantize_latents(part).indices for part in parts])
            ids = ids.view(*latents.shape[:4])
        ids[..., keep:] = NOT_SENT
        if isinstance(self.layout, SequenceLayout):
            return ids
        if single:
            return ids[:, 0, 0]
        ed, es, anatomy = self.see_anatomy(x, ed, es, mask)
        return self.layout.pack(TokenParts(ed, es, ids, anatomy))

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
            steps: of the sampler; 1 with realism 0.
            realism: a in [0, 1]; the result is x̂ + a (sample - x̂), where x̂ is the one-step decode of highest PSNR.
            seed: of the sample's noise, which is a function of (seed, slice, phase) alone.
            sampler: `euler`, a network evaluation a step, or `heun`, two.
            grid: (D, T) that the tokens of a whole cine decode to; the config's (model.sequence.grid) when not given.

        Returns:
            (B, C, H, W, D, T) or (B, C, H, W), in [0, 1].

        Raises:
            ValueError: for tokens that this model cannot have written, or knobs that contradict each other.
        """
        self.check_tokens()
        check_batch(tokens)
        knobs = flow.Knobs(steps, realism, seed or 0, sampler)
        knobs.check(self.config.decoder)
        single = tokens.ndim == 2 and self.resampler is None
        if isinstance(self.layout, SequenceLayout):
            self.layout.check(tokens)
            slices, phases = check_grid(grid, self.config.sequence.grid)
            ids = tokens.repeat_interleave(slices, dim=0)  # each slice reads the tokens of its cine
            anatomy = self.nothing_sent(len(ids), ids.device)
        else:
            if grid is not None:
                raise ValueError(
                    f"grid = {tuple(grid)}: tokens of layout frame say their grid themselves; leave it out"
                )
            parts = self.layout.unpack_images(tokens) if single else self.layout.unpack(tokens)
            slices, phases = parts.ids.shape[1:3]
            ids, anatomy = parts.ids.flatten(0, 1), parts.anatomy.flatten(0, 1)
        position = along_stack(slices, ids.device).repeat(len(tokens))
        phase = cycle(phases, ids.device).expand(len(ids), -1)
        chunk = max(1, self.frames_per_chunk // phases)
        numbers = [index % slices for index in range(len(ids))]
        decoded = []
        for first in range(0, len(ids), chunk):
            part = slice(first, first + chunk)
            decoded.append(
                self.decode_groups(ids[part], anatomy[part], position[part], phase[part], knobs, numbers[part])
            )
        frames = rearrange(torch.cat(decoded), "(b d) t c h w -> b c h w d t", d=slices).clamp(0, 1)
        return frames[..., 0, 0] if single else frames

    def decode_groups(
        self,
        ids: Tensor,  # (G, T, K) or (G, N)
        anatomy: Tensor,  # (G, 2 * A)
        position: Tensor,  # (G,)
        phase: Tensor,  # (G, T)
        knobs: flow.Knobs,
        numbers: list[int],  # of the G slices in their stacks
    ) -> Tensor:
        """Decode G slices, (G, T, C, H, W)."""
        context = self.context(ids, position, phase)
        if self.dit is None:
            return self.own_decode(context)
        seen = None if self.resampler is not None else self.conditioning.context(anatomy)
        draft = self.draft(context)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            return self.dit(x, t, context, position, phase, seen, draft)  # type: ignore[misc]

        like = context.new_empty((*phase.shape, 1, self.config.image_size, self.config.image_size))
        return (flow.decode(predict, like, knobs, numbers) + 1) / 2

    def forward(
        self,
        image: Tensor,  # (B, 1, H, W, D, T)
        slice_position: Tensor,  # (B, D)
        phase: Tensor,  # (B, T)
        t: Tensor,  # (B,)
        noise: Tensor,  # like image
        key_frames: Tensor | None = None,  # (B, 2) places of ED and ES along T
        sent: Tensor | None = None,  # (B,) bool, whose anatomy reaches the decoder; all when not given
        ids: Tensor | None = None,  # (B, D, T, K) tokens of the image where they are known; encoded when not given
        there: Tensor | None = None,  # (B, D) bool, False where a slice is padding; all when not given
        keep: Tensor | None = None,  # (B,) how many tokens reach the decoder; all when not given
        masks: Tensor | None = None,  # (B, D, 2, H, W) ground truth at ED and ES, where the conditioning leaks it
    ) -> Prediction:
        """One training pass; gradients flow wherever parameters are trainable."""
        seen, logits = self.observe(image, key_frames, sent, masks)
        if self.tokenizer is None:
            return Prediction(image, None, t, t == 0, logits=logits)
        slices = image.shape[4]
        there = torch.ones_like(slice_position, dtype=torch.bool) if there is None else there
        read = self.read(image, slice_position, phase, seen, ids, there, keep)
        if self.dit is None:
            x_hat, t = self.own_decode(read.context), torch.zeros_like(t)
        else:
            x_hat = recomputed(
                self.dit,
                self.recompute_frames and max(1, self.recompute_frames // image.shape[5]),  # slices, as phases attend
                rearrange(flow.interpolate(2 * image - 1, noise, t), "b c h w d t -> (b d) t c h w"),
                t.repeat_interleave(slices),
                read.context,
                slice_position.flatten(),
                phase.repeat_interleave(slices, dim=0),
                None if self.resampler is not None else seen,
                self.draft(read.context),
            )
            x_hat = (x_hat + 1) / 2
        x_hat = rearrange(x_hat.float(), "(b d) t c h w -> b c h w d t", d=slices)
        judge = None
        if self.segmenter is not None and key_frames is not None:
            judge = Judge(self.segmenter, at_phases(x_hat, key_frames))
        return Prediction(
            image, x_hat, t, t == 0, read.latents, read.quantized, read.ids, self.tokenizer.quantize.codebook(),
            logits, judge, read.context,
        )  # fmt: skip
