"""Convert a plain value (from YAML, JSON or the command line) to the type of a dataclass field."""

import dataclasses
import math
import os
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from utils.config.ranges import Range


class ConfigError(ValueError):
    """An invalid run option; the message contains its full dotted key."""


_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def type_hints(schema: type) -> dict[str, Any]:
    """Return the types of a dataclass's settable fields by name, in order."""
    hints = get_type_hints(schema, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(schema) if field.init}


def described(value: object) -> str:
    """Return a value and its type for an error message."""
    return "null" if value is None else f"{shortened(value)} ({type(value).__name__})"


def shortened(value: object) -> str:
    """Return a value for an error message, at most about 100 characters; a very long integer has no decimal text."""
    text = hex(value) if isinstance(value, int) and value.bit_length() > 1000 else repr(value)
    return text if len(text) <= 100 else f"{text[:90]}... ({len(text)} characters)"


def coerce(hint: Any, value: Any, where: str, section: Callable) -> Any:
    """Return `value` as the type `hint`, or raise.

    Args:
        hint: the type of a dataclass field.
        value: a plain value.
        where: its dotted key, for the message.
        section: reads a nested dataclass: section(type, value, where).
    Returns:
        The value; whole floats become ints, ints floats, lists tuples and texts paths if the type requires it. A
        leading `~` of a text or path is replaced by the home folder.
    Raises:
        ConfigError: naming the key, the value and the expected type.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        return _in_range(coerce(arguments[0], value, where, section), arguments[1:], where)
    if is_typeddict(hint):
        return _coerce_typed_dict(hint, value, where, section)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else section(hint, value, where)  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):
        return _coerce_union(arguments, value, where, section, hint)
    if origin is Literal:
        if value in arguments and type(value) in {type(choice) for choice in arguments}:
            return value
        raise ConfigError(f"{where}: expected one of {', '.join(map(str, arguments))}, found {described(value)}")
    kind = origin or hint
    if kind is dict and isinstance(value, dict):
        key_type, value_type = arguments or (Any, Any)
        return {
            coerce(key_type, key, where, section): coerce(value_type, entry, f"{where}.{key}", section)
            for key, entry in value.items()
        }
    if kind in (list, tuple) and isinstance(value, (list, tuple)):
        entry_types = _entry_types(kind, arguments, len(value))
        if len(entry_types) == len(value):
            pairs = enumerate(zip(entry_types, value, strict=True))
            return kind(coerce(entry_type, entry, f"{where}[{i}]", section) for i, (entry_type, entry) in pairs)
    if kind in _SCALARS:
        result = _SCALARS[kind](value)
        if str(result).startswith("~") and "/" in str(result):
            raise ConfigError(f"{where}: no home folder is known for {value!r}; give the full path")
        if result is not None:
            return result
    hint_for_text = "; quote it to give it as text" if hint is str and isinstance(value, (bool, float)) else ""
    raise ConfigError(f"{where}: expected {_name(hint)}, found {described(value)}{hint_for_text}")


def _in_range(value: Any, limits: tuple[Any, ...], where: str) -> Any:
    """The value, if it is in all declared ranges."""
    for limit in limits:
        if isinstance(limit, Range) and value not in limit:
            raise ConfigError(f"{where}: expected a number {limit}, found {shortened(value)}")
    return value


def _coerce_typed_dict(hint: Any, value: Any, where: str, section: Callable) -> dict[str, Any]:
    hints = get_type_hints(hint, include_extras=True)
    if not isinstance(value, dict) or set(value) != set(hints):
        raise ConfigError(f"{where}: expected a section of {', '.join(hints)}, found {described(value)}")
    return {name: coerce(entry, value[name], f"{where}.{name}", section) for name, entry in hints.items()}


def _coerce_union(members: tuple[Any, ...], value: Any, where: str, section: Callable, hint: Any) -> Any:
    if value is None and type(None) in members:
        return None
    members = tuple(member for member in members if member is not type(None))
    sections = [member for member in members if is_typeddict(member) and isinstance(value, dict)]
    if len(members) == 1 or sections:  # their error message is more precise
        return coerce((sections or members)[0], value, where, section)
    # A member with the type of the value is tried first, so that `int | str` keeps "12" as text.
    for member in sorted(members, key=lambda member: (get_origin(member) or member) is not type(value)):
        try:
            return coerce(member, value, where, section)
        except ConfigError:
            continue
    raise ConfigError(f"{where}: expected {_name(hint)}, found {described(value)}")


def _entry_types(kind: type, arguments: tuple[Any, ...], length: int) -> list[Any]:
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        return list(arguments)
    return [arguments[0] if arguments else Any] * length


def _name(hint: Any) -> str:
    if hint is type(None):
        return "null"
    if get_origin(hint) is Annotated:
        return _name(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_name(member) for member in get_args(hint))
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")


def _as_bool(value: Any) -> bool | None:
    return value if isinstance(value, bool) else _WORDS.get(value.lower()) if isinstance(value, str) else None


def _as_float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _as_int(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    number = _as_float(value)
    return int(number) if number is not None and math.isfinite(number) and number == int(number) else None


def _as_str(value: Any) -> str | None:
    # A whole number has one spelling only, so this is lossless: experiment.name=2024 becomes a text.
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~") else str(value)


def _as_path(value: Any) -> Path | None:
    text = _as_str(value) if not isinstance(value, Path) else str(value)
    return Path(text) if text else None


_SCALARS: dict[Any, Callable[[Any], Any]] = {
    bool: _as_bool,
    int: _as_int,
    float: _as_float,
    str: _as_str,
    Path: _as_path,
}
