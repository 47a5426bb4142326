"""How a model is loaded, saved and published: a folder, or the Hugging Face Hub."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin

from modeling.config import ModelConfig
from modeling.weights.card import model_card, write_card
from modeling.weights.pretrained import export_config, read_pretrained, write_published
from utils.checkpoint import export

Model = TypeVar("Model", bound="Saving")


class Saving(PyTorchModelHubMixin):
    """The part of TiTok that reads and writes folders; `push_to_hub` uploads what `save_pretrained` writes."""

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls: type[Model], source: str | Path, revision: str | None = None, cache_dir: str | None = None
    ) -> Model:
        """Load a trained TiTok-MRI model or a published TiTok tokenizer.

        Args:
            source: a folder, a `.bin` of TiTok's repository with its YAML beside it, or a Hub id; see
                modeling/weights/hub.py.
            revision: commit, tag or branch of the Hub id.
            cache_dir: folder for downloads; None for the cache of the Hub (HF_HOME).

        Returns:
            The model in eval mode; C is 1 for TiTok-MRI and 3 for a published tokenizer.

        Raises:
            FileNotFoundError: when the weights do not exist or cannot be downloaded.
            ValueError: when keys or shapes of config and weights differ, or the tokens are continuous.
        """
        model: Any = read_pretrained(cls, ModelConfig, source, revision, cache_dir)  # type: ignore[type-var]
        return model.eval()

    def save_pretrained(  # type: ignore[override]
        self: Any, folder: str | Path, config: None = None, model_card_kwargs: dict[str, Any] | None = None
    ) -> None:
        """Write model.safetensors, config.json and the model card README.md, each atomically.

        Args:
            folder: is created if it does not exist. A README.md that a user wrote or edited is kept, see
                modeling/weights/card.py.
            config: always None; `push_to_hub` passes it.
            model_card_kwargs: options of `generate_model_card`.

        Raises:
            ValueError: for a model that encodes ground truth, which must not be published.
        """
        if self.conditioning.leak is not None:
            raise ValueError(f"not saved: {self.conditioning.leak}; train with another model.conditioning to publish")
        card = self.generate_model_card(**(model_card_kwargs or {}))
        plain, counts, record = asdict(self.config), self.token_counts, self.training_record
        export(folder, export_config(plain, self.teachers(), None, counts, record), self.state_dict())
        write_card(Path(folder), card)

    def generate_model_card(  # type: ignore[override]
        self: Any, summary: dict[str, Any] | None = None, license: str | None = None
    ) -> ModelCard:
        """Return the model card.

        Args:
            summary: content of summary.json of a report of this model; None for a card without results.
            license: licence of the weights, such as `cc-by-nc-sa-4.0`; None leaves it to whoever publishes them.

        Raises:
            ValueError: the summary is not that of a report.
        """
        layout = None if self.config.only_segments else self.layout
        count = sum(parameter.numel() for parameter in self.parameters())
        leak = self.conditioning.leak
        return model_card(asdict(self.config), layout, count, self.training_record, summary, license, leak)

    def save_tokenizer(self: Any, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write the tokenizer alone, without adapters, in the published layout."""
        write_published(Path(folder), asdict(self.config.tokenizer.vq_model), self.state_dict(), dtype)
