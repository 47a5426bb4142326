"""The options of a model as plain data: content of the section `model` of a recipe and of config.json."""

from dataclasses import dataclass, field
from typing import Any, Literal

from modeling.adapters import AdapterConfig
from modeling.dit import DiTConfig
from modeling.ladder.ladder import LadderConfig
from modeling.resampling.config import SequenceConfig
from modeling.tokenizer import VQModelConfig


@dataclass
class TokenizerOptions:
    """Source of the tokenizer.

    Args:
        init: a Hub id, a folder in the published layout, a `.bin` with its YAML in the same folder, or `random`.
        revision: commit, tag or branch of the Hub id; only a commit is reproducible.
        vq_model: the architecture; read from the config of the weights unless init is `random`.
    """

    init: str = "yucornetto/tokenizer_titok_l32_imagenet"
    revision: str | None = None
    vq_model: VQModelConfig = field(default_factory=VQModelConfig)


@dataclass
class ModelConfig:
    """The options of a model as plain data.

    Args:
        channels: 1 for MRI; 3 for a published tokenizer, which then has no adapters.
        geometry: `crop` or `fit`, transform of files to the model grid (data/preprocess.py).
        decoder: `dit`, `titok` for the decoder of the tokenizer, or `none` without tokenizer: for a segmenter alone, or
            a ladder.
        tokenizer: source of the tokenizer.
        adapters: channel and phase adapter.
        layout: layout of the tokens: `frame`; `sequence`, N tokens for a whole cine; `ladder`, residual tokens at any
            rate.
        sequence: options of the layout `sequence`.
        ladder: options of the layout `ladder`.
        dit: the DiT decoder.
        conditioning: {"name": a file of modeling/conditioning, ...its options}.
    """

    channels: Literal[1, 3] = 1
    geometry: str = "fit"
    decoder: str = "dit"
    tokenizer: TokenizerOptions = field(default_factory=TokenizerOptions)
    adapters: AdapterConfig = field(default_factory=AdapterConfig)
    layout: str = "frame"
    sequence: SequenceConfig = field(default_factory=SequenceConfig)
    ladder: LadderConfig = field(default_factory=LadderConfig)
    dit: DiTConfig = field(default_factory=DiTConfig)
    conditioning: dict[str, Any] = field(default_factory=lambda: {"name": "none"})

    def __post_init__(self) -> None:
        choices = {
            "decoder": ("dit", "titok", "none"),
            "geometry": ("crop", "fit"),
            "layout": ("frame", "sequence", "ladder"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected {' or '.join(known)}")
        if self.layout == "ladder" and self.decoder != "none":
            raise ValueError(f"layout is ladder and decoder is {self.decoder}: set decoder to none")
        harmonic = self.layout == "sequence" and self.sequence.method == "harmonic"
        if harmonic and self.conditioning.get("name", "none") != "none":
            raise ValueError("sequence.method is harmonic: its tokens hold no anatomy; set conditioning={name: none}")
        if self.only_segments and self.conditioning.get("name", "none") == "none":
            raise ValueError(
                "decoder is none: a model that only segments needs a conditioning with a segmenter, such as resnet18"
            )

    @property
    def only_segments(self) -> bool:
        """Whether the model has no tokens."""
        return self.decoder == "none" and self.layout != "ladder"

    @property
    def samples_with(self) -> str:
        """The network that samples for realism: `dit`, or another decoder, which cannot sample."""
        is_dit = self.layout == "ladder" and self.ladder.refinement.get("name") == "dit"
        return "dit" if is_dit else self.decoder

    @property
    def has_tokenizer(self) -> bool:
        """Whether the model has a tokenizer of frames."""
        return self.decoder != "none"

    @property
    def keeps_decoder(self) -> bool:
        """Whether the decoder of the tokenizer is part of the model."""
        return self.decoder == "titok" or (self.decoder == "dit" and self.dit.draft)

    @property
    def image_size(self) -> int:
        """Side of the model's grid in pixels."""
        return self.tokenizer.vq_model.image_size
