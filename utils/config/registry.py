"""The folder is the registry: a component is one module file, with an `Options` dataclass and `build(options, ...)`."""

import dataclasses
import difflib
import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

from utils.config.recipe import ConfigError, join, options, unknown_key


def names(package: str) -> list[str]:
    """List the components of a folder.

    Args:
        package: its dotted name, e.g. `modeling.losses`.
    Returns:
        The module names in order; a name that starts with an underscore is a helper of the folder, not a component.
    """
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    files = [file.stem for folder in folders or () for file in Path(folder).glob("*.py")]
    return sorted(name for name in files if re.fullmatch(r"[a-z0-9][a-z0-9_]*", name))


def build(package: str, name: str, data: dict[str, Any], where: str, **context: Any) -> Any:
    """Build the component that a config section names.

    Args:
        package: the folder that is looked in, and no other; e.g. `modeling.losses`.
        name: the component, which is imported only if the folder has a file of that name.
        data: its section; a key `name` that repeats the component's name is passed over.
        where: the section's dotted key, for error messages; e.g. `losses.flow` or `conditioning`.
        context: what the run adds to the options, handed to the component's `build` by keyword.
    Returns:
        What `build(options, **context)` of the module returns.
    Raises:
        ConfigError: for an unknown name, listing the known ones, or for options that the component does not have.
    """
    return build_with_options(package, name, data, where, **context)[0]


def build_with_options(package: str, name: str, data: dict[str, Any], where: str, **context: Any) -> tuple[Any, Any]:
    """`build`, and the options that the component was built from."""
    module = _module(package, name, where)
    if isinstance(data, dict) and data.get("name") == name:
        data = {key: value for key, value in data.items() if key != "name"}
    chosen = options(module.Options, data, where)
    return module.build(chosen, **context), chosen


def option_names(package: str, name: str, where: str) -> list[str]:
    """List the options of a component.

    Args:
        package: the folder that is looked in.
        name: the component.
        where: the section's dotted key, for error messages.
    Returns:
        The fields of its `Options`.
    Raises:
        ConfigError: for an unknown name, listing the known ones.
    """
    return [field.name for field in dataclasses.fields(_module(package, name, where).Options)]


def _module(package: str, name: str, where: str) -> Any:
    known = names(package)
    if name not in known:
        section, _, last = where.rpartition(".")
        if last == name:  # the key is the name, as in losses.flow
            raise ConfigError(unknown_key(where, (join(section, entry) for entry in known)))
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"{where}: unknown name {name!r}; {hint}known names: {', '.join(known)}")
    return importlib.import_module(f"{package}.{name}")
