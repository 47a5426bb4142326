"""YAML of recipes: plain scalars of YAML 1.2, unique keys, and limits of size and depth.

A value on the command line is such a scalar, or a list or section in brackets.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from utils.text import read_text

MAX_DEPTH = 50  # of nested lists and sections
MAX_NODES = 100_000  # values, including repetitions by aliases: a few aliases can produce billions


class _Loader(yaml.SafeLoader):
    """YAML with the plain scalars of YAML 1.2 (only true and false are booleans, 1e4 is a number) and unique keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own name and type

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a value; deep nesting is an error before Python's stack overflows, and tags are never followed."""
        if (tag := getattr(self.peek_event(), "tag", None)) is not None:
            raise ValueError(f"the tag {tag.replace('tag:yaml.org,2002:', '!!')} is not read; write plain values")
        self.depth += 1
        if self.depth > MAX_DEPTH + 1:
            raise ValueError(f"more than {MAX_DEPTH} nested levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def get_single_node(self) -> Any:
        """Compose the document; a document that is too large is an error before it is built."""
        node = super().get_single_node()
        if node is not None:
            _measure(node, {})
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; a repeated key is an error (PyYAML would silently keep the last)."""
        keys = [key.value for key, _ in node.value if key.value != "<<"]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]} is repeated", node.start_mark)
        return super().construct_mapping(node, deep=deep)


def _scalar(tag: str, pattern: str, first: str) -> None:
    # `first` holds the possible first characters of such a scalar; none for the empty scalar.
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first) or [""])


_scalar("null", "~|null|Null|NULL", "~nN")
_scalar("null", "", "")
_scalar("bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_scalar("int", "-?(?:0|[1-9][0-9]*)", "-0123456789")
_scalar("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+", "-+.0123456789")
_scalar("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+.")
_scalar("merge", "<<", "<")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of `key: value` lines; an empty one is {}.

    Raises:
        ValueError: naming the file, when it is not text, not YAML, not a section, or too large.
    """
    text = read_text(path)
    try:
        data = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if data is not None and not isinstance(data, dict):
        raise ValueError(f"{path}: expected `key: value` lines, found {data!r:.80} ({type(data).__name__})")
    return data or {}


def read_value(text: str) -> Any:
    """Read a value of the command line; only lists and sections in brackets and quoted texts are parsed as YAML.

    Args:
        text: `[a, b]`, `{a: 1}`, `'1e4'`, or a scalar: null, a boolean, a number, or any other text, unchanged.
    Raises:
        ValueError: for brackets that are not valid YAML.
    """
    if text[:1] in ("[", "{", "'", '"'):
        try:
            whole = yaml.compose(text, Loader=_Loader).end_mark.index == len(text.rstrip())
            if whole:
                return yaml.load(text, Loader=_Loader)
        except (yaml.YAMLError, ValueError):
            pass
        if text[:1] in "[{":
            raise ValueError(f"cannot read {text!r:.200}; quote entries with special characters")
        return text
    loader = _Loader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))
    if tag.rpartition(":")[2] not in ("null", "bool", "int", "float"):
        return text
    return loader.construct_object(yaml.ScalarNode(tag, text))


def _measure(node: Any, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Number of values and depth below a node, including repetitions by aliases; ValueError beyond the limits."""
    if isinstance(node, yaml.ScalarNode):
        return 1, 0
    if id(node) in known:
        size = known[id(node)]
        if size is None:
            raise ValueError("an alias refers to a section that contains it")
        return size
    known[id(node)] = None
    children = [child for entry in node.value for child in (entry if isinstance(entry, tuple) else (entry,))]
    sizes = [_measure(child, known) for child in children]
    total, depth = 1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
    if total > MAX_NODES or depth > MAX_DEPTH:
        raise ValueError(f"more than {MAX_NODES} values or {MAX_DEPTH} nested levels, including repetitions by aliases")
    known[id(node)] = total, depth
    return total, depth
