"""How a run's model comes into being: fresh, from a published tokenizer, or from an earlier stage."""

from modeling.config import ModelConfig
from modeling.pretrained import read_tokenizer, used_by
from modeling.titok import TiTok
from modeling.tokenizer import VQModelConfig
from utils.checkpoint import load_weights, start_from
from utils.config import from_plain


def start_model(config: ModelConfig, init_weight: str | None) -> tuple[TiTok, list[str]]:
    """Build the model and give it its first weights.

    With `init_weight` the Hub is never asked: the tokenizer's architecture is the one written in that file, unless the
    recipe says `random` and thereby its own.

    Args:
        config: the model; its tokenizer's architecture is filled in from the weights.
        init_weight: checkpoint or folder of an earlier stage.

    Returns:
        The model, and the components that start fresh.

    Raises:
        FileNotFoundError: when the weights cannot be had.
        ValueError: when they are another architecture's.
    """
    tokenizer = config.tokenizer
    if init_weight is not None:
        state, saved = load_weights(init_weight)
        if saved is not None and tokenizer.init != "random":
            tokenizer.vq_model = saved_vq_model(saved, init_weight)
        source = str(init_weight)
    elif tokenizer.init != "random":
        tokenizer.vq_model, state = read_tokenizer(tokenizer.init, tokenizer.revision)
        source = tokenizer.init
    else:
        state, source = {}, ""
    model = TiTok(config)
    if not state:
        model.tokenizer.init_local()
        return model, [name for name, _ in model.named_children()]
    return model, start_from(model, used_by(config.decoder, state), source)


def saved_vq_model(saved: dict, source: str) -> VQModelConfig:
    """The tokenizer's architecture as an earlier stage wrote it down."""
    try:
        vq_model = saved["model"]["tokenizer"]["vq_model"]
    except (KeyError, TypeError):
        raise ValueError(
            f"{source}: its config has no model.tokenizer.vq_model; expected a checkpoint of this project's training"
        ) from None
    return from_plain(VQModelConfig, vq_model, f"{source}: model.tokenizer.vq_model")
