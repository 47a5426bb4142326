"""Run options: nested dataclasses, filled from a YAML file and `key=value` arguments, strict about every key and type.

    dataclass defaults  <-  config=recipe.yaml  <-  training.max_steps=100 ...

The dataclasses are the schema. An unknown key is an error with its full dotted name and the nearest known key. A field
of type `dict[str, Any]` is a free section; `options` checks its keys when its component is known.
"""

import dataclasses
import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from utils.config.coerce import ConfigError, coerce, described, type_hints
from utils.config.references import ALLOWED, resolve
from utils.config.yaml_text import read_value, read_yaml

T = TypeVar("T")
REPOSITORY = Path(__file__).resolve().parents[2]
MISSING = "???"  # in a recipe: a value that the user must give


def find_file(path: str) -> Path:
    """Find a config file in the current folder, then in the repository.

    Args:
        path: absolute, or relative to either folder.
    Returns:
        The path of an existing file.
    Raises:
        FileNotFoundError: naming both paths.
    """
    path = os.path.expanduser(path)
    places = [Path.cwd() / path, REPOSITORY / path]
    for place in places:
        if place.is_file():
            return place
    tried = " and ".join(dict.fromkeys(map(str, places)))
    raise FileNotFoundError(f"config file {path} not found (tried {tried}); check the path after config=")


def parse(schema: type[T], argv: Sequence[str]) -> T:
    """Read the options of a run: dataclass defaults, then the YAML file, then the command line.

    Args:
        schema: a dataclass of nested dataclasses.
        argv: `config=FILE` and `dotted.key=VALUE` in any order. A value is everything after the first `=`, see
            utils/config/yaml_text.py; it replaces the previous value of its key.
    Returns:
        An instance of `schema`.
    Raises:
        ConfigError: naming the key, for an unknown key, a wrong type, a missing value or an unresolved `${...}`.
        FileNotFoundError: if the config file does not exist.
    """
    assignments = [_assignment(argument) for argument in argv]
    files = [value for key, value in assignments if key == "config"]
    if len(files) > 1:
        raise ConfigError(f"config is given {len(files)} times ({', '.join(files)}); give one config file")
    key = ""
    try:
        tree = OmegaConf.create(_defaults(schema))
        for name in files:
            key = name
            tree = OmegaConf.merge(tree, OmegaConf.create(read_yaml(find_file(name))))
        for key, text in assignments:
            if key != "config":
                OmegaConf.update(tree, key, _value(key, text), merge=False, force_add=True)
        plain = resolve(cast(dict[str, Any], OmegaConf.to_container(tree)))
    except GrammarParseError:
        raise ConfigError(f"{key}: contains `${{` without a valid reference; {ALLOWED}") from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or key}: {str(error).splitlines()[0]}; correct this key") from None
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return from_plain(schema, plain)


def section(argv: Sequence[str]) -> dict[str, Any]:
    """Read the keys of one component from the command line.

    Args:
        argv: `key=VALUE`; a value is read as by `parse`.
    Returns:
        A section for `options`, which checks its keys.
    Raises:
        ConfigError: for an argument that is not `key=VALUE`.
    """
    return {key: _value(key, text) for key, text in map(_assignment, argv)}


def from_plain(schema: type[T], data: dict[str, Any], where: str = "") -> T:
    """Create a dataclass from a plain dict; unknown keys and wrong types are errors.

    Args:
        schema: a dataclass; its fields may be dataclasses, lists, tuples, dicts, unions, Literals and scalars.
        data: plain values; a missing field keeps its default.
        where: the dotted key of `data`, for error messages.
    Returns:
        An instance of `schema`.
    Raises:
        ConfigError: naming the full dotted key.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{where or 'config'}: expected a section of `key: value` lines, found {described(data)}")
    hints = type_hints(schema)
    for name in data:
        if name not in hints:
            raise ConfigError(unknown_key(join(where, name), (join(where, known) for known in hints)))
    values = {}
    for name, hint in hints.items():
        if name in data and data[name] != MISSING:
            values[name] = coerce(hint, data[name], join(where, name), from_plain)
        elif name in data or _is_required(schema, name):
            key = join(where, name)
            raise ConfigError(f"{key}: a value is required; give {key}=VALUE or write it in the config file")
    try:
        return schema(**values)
    except ConfigError:
        raise
    except ValueError as error:  # raised by __post_init__
        raise ConfigError(f"{where}: {error}" if where else str(error)) from None


def options(cls: type[T], data: dict[str, Any], where: str) -> T:
    """Create the options dataclass of a component from its free section, see `from_plain`.

    Args:
        cls: the component's dataclass.
        data: the section, as written in the recipe.
        where: its dotted key, e.g. `losses.flow`.
    Returns:
        An instance of `cls`.
    Raises:
        ConfigError: naming the full dotted key.
    """
    return from_plain(cls, data, where)


def to_plain(config: Any) -> Any:
    """Turn a config into plain dicts, lists and scalars, which JSON and `weights_only` checkpoints can hold.

    Args:
        config: a dataclass, or any value that a field may hold; tuples become lists and paths strings.
    Returns:
        The same values; `from_plain` reads them back.
    Raises:
        TypeError: for a value with no plain form.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_plain(getattr(config, field.name)) for field in dataclasses.fields(config) if field.init}
    if isinstance(config, dict):
        return {str(key): to_plain(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_plain(value) for value in config]
    if isinstance(config, Path):
        return str(config)
    if config is None or isinstance(config, (str, bool, int, float)):
        return config
    raise TypeError(f"a config may contain plain values only, found {described(config)}")


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Write the message for an unknown key.

    Args:
        key: the full dotted key as given.
        known: the full dotted keys that exist.
    Returns:
        The message, with the nearest known key, or with all keys if none is similar.
    """
    known = sorted(known)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    # A long section name makes all its keys similar, so the last part must be similar too.
    near = [name for name in near if difflib.SequenceMatcher(None, _last(name), _last(key)).ratio() >= 0.5]
    hint = (
        f"did you mean {near[0]}?" if near else f"known here: {', '.join(_last(name) for name in known) or 'no keys'}"
    )
    return f"{key}: unknown key; {hint}"


def join(where: str, name: object) -> str:
    """Return the dotted key of `name` inside the section `where`."""
    return f"{where}.{name}" if where else str(name)


def _last(key: str) -> str:
    return key.rsplit(".", 1)[-1]


def _assignment(argument: str) -> tuple[str, str]:
    key, equals, value = argument.partition("=")
    if not equals or not key or key.startswith("-"):
        raise ConfigError(f"{argument!r} is not an option; write key=value, e.g. config=FILE or experiment.seed=1")
    return key, value


def _value(key: str, text: str) -> Any:
    try:
        return read_value(text)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None


def _is_required(schema: type, name: str) -> bool:
    field = {field.name: field for field in dataclasses.fields(schema)}[name]
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _defaults(schema: type) -> dict[str, Any]:
    """Return the defaults of a schema as a plain dict, without required fields; recipes can refer to them."""
    plain = {}
    for field in dataclasses.fields(schema):
        if field.init and field.default is not dataclasses.MISSING:
            plain[field.name] = to_plain(field.default)
        elif field.init and field.default_factory is not dataclasses.MISSING:
            plain[field.name] = to_plain(field.default_factory())
        elif dataclasses.is_dataclass(hint := type_hints(schema).get(field.name)) and isinstance(hint, type):
            plain[field.name] = _defaults(hint)
    return plain
