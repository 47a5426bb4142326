"""Replace `${dotted.key}` in a tree of plain values by the value of that key.

A reference names a key of the same tree, and never the environment, a file or a function. OmegaConf is not used for
this, because it runs resolvers such as `oc.env` and has no limit on the size of the result.
"""

import re
from typing import Any

MAX_WORK = 1_000_000  # values and characters of the result: a few nested references can produce billions
_REFERENCE = re.compile(r"\$\{([^${}]*)\}")


def resolve(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with every reference replaced.

    A text that is one reference becomes the value with its type. In a longer text the value is inserted as text.

    Raises:
        ValueError: naming the key, for a reference to a missing key, to itself, or to anything but a key.
    """
    return _Resolver(tree).value(tree, "", ())


class _Resolver:
    def __init__(self, tree: dict[str, Any]) -> None:
        self.tree, self.work = tree, 0

    def value(self, node: Any, where: str, above: tuple[str, ...]) -> Any:
        """A node of the tree without references; `above` holds the keys of the references that are being resolved."""
        self.work += len(node) if isinstance(node, str) else 1
        if self.work > MAX_WORK or len(above) > 20:
            raise ValueError(f"{where}: the references produce too many values; write the values instead")
        if isinstance(node, dict):
            return {key: self.value(entry, f"{where}.{key}" if where else str(key), above)
                    for key, entry in node.items()}  # fmt: skip
        if isinstance(node, list):
            return [self.value(entry, f"{where}[{i}]", above) for i, entry in enumerate(node)]
        if not isinstance(node, str) or "${" not in node:
            return node
        if whole := _REFERENCE.fullmatch(node):
            return self.look_up(whole[1], where, above)
        if "${" in _REFERENCE.sub("", node):
            raise ValueError(f"{where}: cannot read {node!r}; {ALLOWED}")
        return _REFERENCE.sub(lambda match: self.text(match[1], where, above), node)

    def look_up(self, key: str, where: str, above: tuple[str, ...]) -> Any:
        if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
            raise ValueError(f"{where}: ${{{key}}} is refused; {ALLOWED}")
        if key in above:
            raise ValueError(f"{where}: ${{{key}}} refers to itself; give one of these keys a value")
        node: Any = self.tree
        for name in key.split("."):
            if not isinstance(node, dict) or name not in node:
                raise ValueError(f"{where}: ${{{key}}} refers to the unknown key {key!r}; correct the reference")
            node = node[name]
        return self.value(node, key, (*above, key))

    def text(self, key: str, where: str, above: tuple[str, ...]) -> str:
        value = self.look_up(key, where, above)
        if isinstance(value, (dict, list)):
            raise ValueError(f"{where}: ${{{key}}} is a {type(value).__name__}, which cannot be part of a text")
        text = str(value)
        self.work += len(text)
        return text


ALLOWED = "a reference names another key of the recipe, such as ${training.max_steps}, and nothing else"
