"""Initial weights of a run: random, from a published tokenizer, or from an earlier stage."""

from typing import Any

from modeling.config import ModelConfig
from modeling.titok import TiTok
from modeling.tokenizer import VQModelConfig
from modeling.weights.pretrained import lineage, read_tokenizer, without_decoder
from utils.checkpoint import check_keys, load_weights, start_from
from utils.config.recipe import from_plain


def start_model(config: ModelConfig, init_weight: str | None) -> tuple[TiTok, list[str]]:
    """Build the model and load its initial weights.

    With `init_weight` the Hub is not contacted: the architecture of the tokenizer is that of the file, or that of the
    recipe if `model.tokenizer.init` is `random`.

    Args:
        config: options of the model; architecture and source of the tokenizer are filled in from the weights.
        init_weight: checkpoint or folder of an earlier stage.

    Returns:
        The model, and the names of the components with new random weights.

    Raises:
        FileNotFoundError: when the weights do not exist or cannot be downloaded.
        ValueError: when the weights have another architecture.
    """
    tokenizer = config.tokenizer
    taught_by: set[str] = set()
    from_recipe = config.decoder == "none" or tokenizer.init == "random"  # no pretrained tokenizer
    if init_weight is not None:
        try:
            state, saved = load_weights(init_weight)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"experiment.init_weight: {error}; train the earlier stage first") from None
        taught_by |= teachers_of(saved, str(init_weight))
        if saved is not None and not from_recipe:
            tokenizer.vq_model = saved_vq_model(saved, init_weight)
            origin = saved["model"]["tokenizer"]  # the source of the first weights of its tokenizer
            tokenizer.init, tokenizer.revision = origin.get("init", tokenizer.init), origin.get("revision")
        source = str(init_weight)
    elif not from_recipe:
        tokenizer.vq_model, state = read_tokenizer(tokenizer.init, tokenizer.revision)
        source = tokenizer.init
    else:
        state, source = {}, ""
    model = TiTok(config)
    if not state and model.tokenizer is not None:
        model.tokenizer.init_local()
    fresh = [name for name, _ in model.named_children()]
    if state:
        used = state if config.keeps_decoder else without_decoder(state)
        fresh = start_from(model, used, source)
    weights = config.conditioning.get("weights")
    if weights is not None and model.segmenter is not None:  # sam3 loads its own weights
        taught_by |= load_segmenter(model, weights)
        fresh = ["conditioning but its segmenter" if name == "conditioning" else name for name in fresh]
    model.taught_by = sorted(taught_by)
    if model.segmenter is not None and "conditioning" not in fresh:  # its segmenter comes from a file
        model.taught_by = model.teachers()
    return model, fresh


def load_segmenter(model: TiTok, source: str) -> set[str]:
    """Load the segmenter of a trained model into the conditioning and return the lineage of that model."""
    prefix = "conditioning.segmenter."
    try:
        weights, saved = load_weights(source)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"model.conditioning.weights: {error}; train a segmenter recipe first, or leave the key out to start fresh"
        ) from None
    state = {key: value for key, value in weights.items() if key.startswith(prefix)}
    if not state:
        raise ValueError(
            f"model.conditioning.weights {source}: holds no segmenter; give a model that was trained with one"
        )
    expected = {key: value for key, value in model.state_dict().items() if key.startswith(prefix)}
    check_keys(expected, state, source)
    model.load_state_dict(state, strict=False)
    return teachers_of(saved, source)


def teachers_of(saved: dict[str, Any] | None, source: str) -> set[str]:
    """Return the hashes of the segmenters that were used in the training of an earlier stage, from its config.

    Raises:
        ValueError: the file does not name them.
    """
    if saved is None or "taught_by" not in saved:
        raise ValueError(f"{source}: has no `taught_by`, the segmenters of its training; give the output folder of a "
                         "training, or its checkpoint_last.pth")  # fmt: skip
    return lineage(saved, source)


def saved_vq_model(saved: dict, source: str) -> VQModelConfig:
    """Return the architecture of the tokenizer in the config of an earlier stage."""
    try:
        vq_model = saved["model"]["tokenizer"]["vq_model"]
    except (KeyError, TypeError):
        raise ValueError(
            f"{source}: its config has no model.tokenizer.vq_model; expected a checkpoint of this project's training"
        ) from None
    return from_plain(VQModelConfig, vq_model, f"{source}: model.tokenizer.vq_model")
