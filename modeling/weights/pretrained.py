"""Reading and writing of trained models, in the layout of TiTok-MRI or of the published tokenizers."""

from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from modeling.tokenizer import VQModelConfig
from modeling.weights.hub import Pretrained, find_pretrained
from utils.checkpoint import SCHEMA_VERSION, WEIGHTS_HASH, check_keys, export, load_weights
from utils.config.recipe import from_plain

FORMAT = "titok-mri"
OWN_DECODER = ("tokenizer.decoder.", "tokenizer.pixel_quantize.", "tokenizer.pixel_decoder.")
State = dict[str, Tensor]
Model = TypeVar("Model", bound=nn.Module)


def published_vq_model(config: dict[str, Any], where: str) -> VQModelConfig:
    """Read the architecture from a published config.json; other sections (the generator) are ignored.

    Raises:
        ValueError: when the sections of a published tokenizer are missing.
    """
    if isinstance(config, dict) and config.get("format") == FORMAT:
        raise ValueError(f"{where}: is a trained TiTok-MRI model, expected a published tokenizer; give the model as "
                         "experiment.init_weight")  # fmt: skip
    try:
        vq_model = dict(config["model"]["vq_model"])
        image_size = config["dataset"]["preprocessing"]["crop_size"]
    except (KeyError, TypeError):
        raise ValueError(
            f"{where}: neither a TiTok-MRI model nor a published tokenizer: expected model.vq_model and "
            "dataset.preprocessing.crop_size"
        ) from None
    return from_plain(VQModelConfig, {**vq_model, "image_size": image_size}, "model.vq_model")


def read_tokenizer(source: str | Path, revision: str | None = None) -> tuple[VQModelConfig, State]:
    """Read architecture and weights of a published tokenizer, with keys below `tokenizer.`."""
    return published(find_pretrained(source, revision))


def published(files: Pretrained) -> tuple[VQModelConfig, State]:
    """Read architecture and weights of a published tokenizer from its files, with keys below `tokenizer.`."""
    state, _ = load_weights(files.weights, files.config.get(WEIGHTS_HASH))
    return published_vq_model(files.config, files.where), {f"tokenizer.{key}": value for key, value in state.items()}


def without_decoder(state: State) -> State:
    """Return the weights without the decoder of the tokenizer."""
    return {key: value for key, value in state.items() if not key.startswith(OWN_DECODER)}


def read_pretrained(
    model_class: type[Model],
    config_class: type[Any],
    source: str | Path,
    revision: str | None = None,
    cache_dir: str | None = None,
) -> Model:
    """Build a model from a folder, a single file or the Hub and load it key for key.

    Raises:
        FileNotFoundError: when the files do not exist or cannot be downloaded.
        ValueError: when keys or shapes, which are named, differ, or the tokens are continuous.
    """
    files = find_pretrained(source, revision, cache_dir)
    if files.config.get("format") == FORMAT:
        if not isinstance(files.config.get("model"), dict):
            raise ValueError(f"{files.where}: has no section `model`; export the model again")
        if "taught_by" not in files.config:
            raise ValueError(f"{files.where}: has no `taught_by`, the segmenters of its training; export it again")
        model_config = from_plain(config_class, files.config["model"], "model")
        state, _ = load_weights(files.weights, files.config.get(WEIGHTS_HASH))
    else:
        vq_model, state = published(files)
        model_config = config_class(channels=3, decoder="titok")
        model_config.tokenizer.init, model_config.tokenizer.vq_model = str(source), vq_model
    with torch.device("meta"):
        expected = model_class(model_config).state_dict()
    check_keys(expected, state, str(files.weights))
    model = model_class(model_config)
    model.load_state_dict(state)
    model.taught_by = sorted(lineage(files.config, files.where))  # type: ignore[assignment]
    model.token_counts = read_token_counts(files.config, files.where)  # type: ignore[assignment]
    model.training_record = read_training_record(files.config, files.where)  # type: ignore[assignment]
    return model


def lineage(config: dict[str, Any], where: str) -> set[str]:
    """Return the hashes of the segmenters that were used in the training of a saved model, from its config.

    Raises:
        ValueError: when `taught_by` is not a list of texts.
    """
    taught_by = config.get("taught_by", [])  # a published tokenizer has none
    if not isinstance(taught_by, list) or not all(isinstance(entry, str) for entry in taught_by):
        raise ValueError(f"{where}: taught_by is {taught_by!r}, expected a list of hashes; export the model again")
    return set(taught_by)


def export_config(
    model: dict[str, Any],
    taught_by: list[str],
    leak: str | None = None,
    token_counts: list[int] | None = None,
    training_record: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the content of config.json of an exported model.

    Args:
        model: the model as plain data.
        taught_by: hashes of all segmenters used in its training. An independent reference segmenter is not among them.
        leak: ground truth that the model encodes; None for none.
        token_counts: number of occurrences of each id of the frame codebook in training; None if not counted.
        training_record: data, steps and losses of the training, for the model card; None if unknown.
    """
    stamp = {} if leak is None else {"leak": leak}
    counts = {} if token_counts is None else {"token_counts": token_counts}
    record = {} if training_record is None else {"training_record": training_record}
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        **stamp,
        "taught_by": taught_by,
        **counts,
        **record,
        "model": model,
    }


def read_token_counts(config: dict[str, Any], where: str) -> list[int] | None:
    """Return the token counts of a config.json.

    Raises:
        ValueError: if they are not a list of whole numbers from 0.
    """
    counts = config.get("token_counts")
    if counts is None:
        return None
    if not isinstance(counts, list) or not all(type(n) is int and 0 <= n < 1 << 53 for n in counts):
        raise ValueError(f"{where}: token_counts is {counts!s:.80}, expected whole numbers; export it again")
    return counts


def read_training_record(config: dict[str, Any], where: str) -> dict[str, Any] | None:
    """Return the training record of a config.json.

    Raises:
        ValueError: for values other than numbers, texts and lists of texts.
    """
    record = config.get("training_record")
    if record is None:
        return None
    values = record.values() if isinstance(record, dict) else [None]
    lists = [value if isinstance(value, list) else [value] for value in values]
    if not all(isinstance(entry, str | int | float) for value in lists for entry in value):
        raise ValueError(f"{where}: training_record is {record!s:.80}, expected numbers and texts; export it again")
    return record


def write_published(folder: Path, vq_model: dict[str, Any], state: State, dtype: torch.dtype) -> None:
    """Write a tokenizer in the published layout: config.json with model.vq_model, keys without `tokenizer.`."""
    vq_model = dict(vq_model)
    config = {"dataset": {"preprocessing": {"crop_size": vq_model.pop("image_size")}}, "model": {"vq_model": vq_model}}
    prefix = "tokenizer."
    bare = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    export(folder, config, bare, dtype)
