"""Trained models in and out: a folder or the Hub, TiTok-MRI's own layout or the published tokenizers'."""

from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import Tensor, nn

from modeling.tokenizer import VQModelConfig
from utils.checkpoint import load_weights
from utils.config import REPOSITORY, from_plain
from utils.files import atomic_path, read_json, write_json

FORMAT = "titok-mri"
FILES = ("config.json", "model.safetensors")
UNUSED_BY_DIT = ("tokenizer.decoder.", "tokenizer.pixel_quantize.", "tokenizer.pixel_decoder.")
State = dict[str, Tensor]
Model = TypeVar("Model", bound=nn.Module)


def find_pretrained(source: str | Path, revision: str | None = None) -> Path:
    """The local folder of a model: as given, in the repository (for the one it ships), or downloaded from the Hub.

    Raises:
        FileNotFoundError: when it is neither a folder with both files nor a Hub id that can be had.
    """
    folder = next((place for place in (Path(source), REPOSITORY / source) if place.is_dir()), None)
    if folder is not None:
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(f"{folder}: no {' and no '.join(missing)} in it; give a folder that holds both")
        return folder
    try:
        paths = [hf_hub_download(str(source), name, revision=revision) for name in FILES]
    except HFValidationError:
        raise FileNotFoundError(
            f"{source}: no such folder, and not an id of the Hugging Face Hub (owner/name)"
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{source}: no such folder, and it could not be had from the Hugging Face Hub "
            f"({type(error).__name__}); check the id, the network and HF_HUB_OFFLINE"
        ) from None
    return Path(paths[0]).parent


def published_vq_model(config: dict[str, Any], where: str) -> VQModelConfig:
    """The architecture in a published config.json; its other sections (the generator) are passed over.

    Raises:
        ValueError: when the sections of a published tokenizer are not there.
    """
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
    """Architecture and weights of a published tokenizer, keys below `tokenizer.`."""
    folder = find_pretrained(source, revision)
    state, _ = load_weights(folder / "model.safetensors")
    vq_model = published_vq_model(read_json(folder / "config.json"), str(folder / "config.json"))
    return vq_model, {f"tokenizer.{key}": value for key, value in state.items()}


def used_by(decoder: str, state: State) -> State:
    """The weights without the tokenizer's own decoder where the DiT takes its place."""
    if decoder != "dit":
        return state
    return {key: value for key, value in state.items() if not key.startswith(UNUSED_BY_DIT)}


def read_pretrained(
    model_class: type[Model], config_class: type[Any], source: str | Path, revision: str | None
) -> Model:
    """Build a model from a folder or the Hub and load it key for key.

    Raises:
        FileNotFoundError: when the files cannot be had.
        ValueError: when keys or shapes differ, naming them.
    """
    folder = find_pretrained(source, revision)
    config = read_json(folder / "config.json")
    if config.get("format") == FORMAT:
        model_config = from_plain(config_class, config["model"], "model")
        state, _ = load_weights(folder / "model.safetensors")
    else:
        vq_model, state = read_tokenizer(folder)
        model_config = config_class(channels=3, decoder="titok")
        model_config.tokenizer.init, model_config.tokenizer.vq_model = str(source), vq_model
    with torch.device("meta"):
        names = {key: tuple(value.shape) for key, value in model_class(model_config).state_dict().items()}
    check_keys(names, state, str(folder / "model.safetensors"))
    model = model_class(model_config)
    model.load_state_dict(state)
    return model


def check_keys(names: dict[str, tuple[int, ...]], state: State, where: str) -> None:
    """Raise ValueError unless keys and shapes are the model's, naming the first few that are not."""
    missing = sorted(set(names) - set(state))
    unknown = sorted(set(state) - set(names))
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {names[key]}"
        for key in names
        if key in state and tuple(state[key].shape) != names[key]
    ]
    for what, keys in (("missing keys", missing), ("unknown keys", unknown), ("other shapes", shapes)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise ValueError(f"{where}: {what}: {', '.join(keys[:3])}{more}; config.json describes another model")


def export_config(model: dict[str, Any]) -> dict[str, Any]:
    """What config.json of an export holds."""
    return {"format": FORMAT, "schema_version": 1, "model": model}


def write_published(folder: Path, vq_model: dict[str, Any], state: State, dtype: torch.dtype) -> None:
    """Write a tokenizer in the published layout: config.json with model.vq_model, keys without `tokenizer.`."""
    folder.mkdir(parents=True, exist_ok=True)
    vq_model = dict(vq_model)
    config = {"dataset": {"preprocessing": {"crop_size": vq_model.pop("image_size")}}, "model": {"vq_model": vq_model}}
    write_json(folder / "config.json", config)
    prefix = "tokenizer."
    bare = {key.removeprefix(prefix): value.to("cpu", dtype) for key, value in state.items() if key.startswith(prefix)}
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file({key: value.contiguous() for key, value in bare.items()}, temporary)


def write_pretrained(folder: Path, model: dict[str, Any], state: State) -> None:
    """Write config.json and model.safetensors, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", export_config(model))
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file({key: value.detach().cpu().contiguous() for key, value in state.items()}, temporary)
