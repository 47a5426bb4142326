"""Locations of a trained model: a folder, a single file with its YAML, the repository, or the Hugging Face Hub."""

import re
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

from huggingface_hub import constants, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session

from utils.checkpoint import read_config
from utils.config.recipe import REPOSITORY
from utils.config.yaml_text import read_yaml

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in this order: a safetensors file contains tensors only
COMMIT = re.compile("[0-9a-f]{40}")
SINGLE_FILES = (".bin", ".yaml", ".yml")
ANSWER_SECONDS = (
    15.0  # longest wait for the first answer of the Hub for a file; its client alone would wait for minutes
)


class Pretrained(NamedTuple):
    """The files of a trained model.

    Args:
        config: content of config.json, or of the YAML of a single file.
        weights: file of the weights.
        where: file of the config, for error messages.
        commit: of the Hub, 40 hexadecimal digits; None for local files.
    """

    config: dict[str, Any]
    weights: Path
    where: str
    commit: str | None = None


def find_pretrained(source: str | Path, revision: str | None = None, cache_dir: str | None = None) -> Pretrained:
    """Find a model: a folder, a .yaml or .bin of TiTok's repository, a folder of this repository, or a Hub id.

    Args:
        source: a folder with config.json and model.safetensors or pytorch_model.bin; a `.bin` of weights with the YAML
            that names it (`experiment.tokenizer_checkpoint`) beside it, or that YAML; or a Hub id `owner/name`.
        revision: commit, tag or branch of the Hub id.
        cache_dir: folder for downloads; None for the cache of the Hub (HF_HOME).
    Raises:
        FileNotFoundError: when it is none of these, or cannot be downloaded.
        ValueError: when a config cannot be read.
    """
    path = Path(source)
    if path.suffix in SINGLE_FILES:
        return _single_file(path)
    if path.is_file():
        raise FileNotFoundError(f"{path}: is a file; give the folder that it is in")
    folder = next((place for place in (path, REPOSITORY / path) if place.is_dir()), None)
    if folder is None:
        return _download(str(source), revision, cache_dir)
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None or not (folder / CONFIG).is_file():
        missing = CONFIG if weights is not None else " or ".join(WEIGHTS)
        raise FileNotFoundError(f"{folder}: no {missing} in it; give a folder that holds config and weights")
    return Pretrained(read_config(folder / CONFIG), weights, str(folder / CONFIG))


def _single_file(path: Path) -> Pretrained:
    """Return the `.bin` of TiTok's repository with its YAML, from the path of either; both are in one folder."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a folder, a Hub id (owner/name), or a .bin or its .yaml")
    if path.suffix in (".yaml", ".yml"):
        config = read_yaml(path)
        name = _weights_name(config)
        weights = path.parent / name if name else None
        if weights is None or not weights.is_file():
            named = f"experiment.tokenizer_checkpoint {name}" if name else "weights (experiment.tokenizer_checkpoint)"
            raise FileNotFoundError(f"{path}: names no {named} beside it; put the .bin into the same folder")
        return Pretrained(config, weights, str(path))
    for candidate in sorted([*path.parent.glob("*.yaml"), *path.parent.glob("*.yml")]):
        config = read_yaml(candidate)
        if _weights_name(config) == path.name:
            return Pretrained(config, path, str(candidate))
    raise FileNotFoundError(
        f"{path}: no YAML beside it has it as experiment.tokenizer_checkpoint; copy its YAML from TiTok's "
        "repository (configs/infer) into the same folder"
    )


def _weights_name(config: dict[str, Any]) -> str | None:
    """Return the file name of the weights in a YAML, without folder, so that a config cannot select other folders."""
    experiment = config.get("experiment")
    name = experiment.get("tokenizer_checkpoint") if isinstance(experiment, dict) else None
    return Path(name).name if isinstance(name, str) and name else None


def no_answer(source: str, name: str, revision: str | None = None) -> str | None:
    """Request a file of the Hub once, without reading it; return the reason if there is no answer, else None.

    The request runs in a thread, because name resolution and hosts of many addresses ignore the client's timeout.

    Args:
        source: a Hub id.
        name: name of a file; if the Hub redirects to another host, this host must answer too.
        revision: a commit, tag or branch.
    """
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    url, outcome = hf_hub_url(source, name, revision=revision), SimpleQueue[str | None]()

    def ask() -> None:
        try:
            limit = 2 * ANSWER_SECONDS  # the wait below ends first, so that its message is the one that is given
            with get_session().stream("GET", url, headers=build_hf_headers(), timeout=limit):
                outcome.put(None)  # any status is an answer; the client of the Hub reports errors
        except Exception as error:
            outcome.put(f"{constants.ENDPOINT} cannot be reached ({type(error).__name__})")

    Thread(target=ask, daemon=True).start()
    try:
        return outcome.get(timeout=ANSWER_SECONDS)
    except Empty:
        return f"{constants.ENDPOINT} does not answer within {ANSWER_SECONDS:g} s"


def _download(source: str, revision: str | None, cache_dir: str | None) -> Pretrained:
    """Download a model from the Hub, or find it in the cache; config and weights are of one commit."""
    try:
        config = _fetch(source, CONFIG, revision, cache_dir)
        folder = Path(config).parent.name  # the cache has a folder for each commit
        commit = folder if COMMIT.fullmatch(folder) else None
        weights = _fetch_first(source, commit or revision, cache_dir)
    except HFValidationError:
        raise FileNotFoundError(
            f"{source}: no such folder, and not an id of the Hugging Face Hub (owner/name)"
        ) from None
    except (HfHubHTTPError, EntryNotFoundError, OSError) as error:
        raise FileNotFoundError(f"{source}: {_reason(source, revision, cache_dir, error)}") from None
    return Pretrained(read_config(Path(config)), Path(weights), config, commit)


def _fetch_first(source: str, revision: str | None, cache_dir: str | None) -> str:
    """Download the weights under the first file name that exists in the repository."""
    first, second = WEIGHTS
    try:
        return _fetch(source, first, revision, cache_dir)
    except EntryNotFoundError as error:
        try:
            return _fetch(source, second, revision, cache_dir)
        except EntryNotFoundError:
            raise error from None  # the error of the preferred file


def _fetch(source: str, name: str, revision: str | None, cache_dir: str | None) -> str:
    """Download one file; use only the cache if the Hub does not answer."""
    problem = no_answer(source, name, revision)
    cached = problem is not None
    try:
        return hf_hub_download(source, name, revision=revision, cache_dir=cache_dir, local_files_only=cached)
    except LocalEntryNotFoundError:
        raise LocalEntryNotFoundError(problem or f"{constants.ENDPOINT} did not answer") from None


def _reason(source: str, revision: str | None, cache_dir: str | None, error: Exception) -> str:
    """Return why a model cannot be downloaded, and what to do."""
    page = f"{constants.ENDPOINT}/{source}"
    if isinstance(error, GatedRepoError):  # before its parent, RepositoryNotFoundError
        return f"its weights are gated; accept the terms at {page}, then `hf auth login` or set HF_TOKEN"
    if isinstance(error, RepositoryNotFoundError):
        return f"no such folder, and no such model on the Hugging Face Hub ({page}), or a private one; check the id"
    if isinstance(error, RevisionNotFoundError):
        return (
            f"the Hugging Face Hub has it, but no revision {revision!r}; give a branch, tag or commit that exists, see "
            f"{page}/commits/main, or leave the revision out"
        )
    if isinstance(error, LocalEntryNotFoundError):  # before its parent, EntryNotFoundError
        cache, what = cache_dir or constants.HF_HUB_CACHE, f"its revision {revision!r} is " if revision else ""
        return (
            f"no such folder, and {what}not in the cache {cache}, while {error}; run scripts/fetch_weights.py where "
            "there is a network, copy that cache and set HF_HUB_OFFLINE=1, or give a local folder"
        )
    if isinstance(error, EntryNotFoundError):
        return f"has no {CONFIG} with {' or '.join(WEIGHTS)} on the Hugging Face Hub; check the id at {page}"
    return f"no such folder, and the Hugging Face Hub returned {type(error).__name__}; check the id and the network"
