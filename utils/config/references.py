"""`${dotted.key}` in a tree of plain values, replaced by the value of that key.

A reference names a key of the same tree and nothing else: no environment, no file, no function. OmegaConf would run its
resolvers, such as `oc.env`, and has no limit on what references write.
"""

import re
from typing import Any

MAX_WORK = 1_000_000  # values and characters that references may write: a few lines of them can ask for billions
_REFERENCE = re.compile(r"\$\{([^${}]*)\}")


def resolve(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with every reference replaced.

    A text that is one reference takes the value with its type; within a longer text the value is written out.

    Raises:
        ValueError: naming the key, for a reference to a key that is not there, to itself, or to anything but a key.
    """
    return _Resolver(tree).value(tree, "", ())


class _Resolver:
    def __init__(self, tree: dict[str, Any]) -> None:
        self.tree, self.work = tree, 0

    def value(self, node: Any, where: str, above: tuple[str, ...]) -> Any:
        """A node of the tree without references; `above` are those that led here."""
        self.work += len(node) if isinstance(node, str) else 1
        if self.work > MAX_WORK or len(above) > 20:
            raise ValueError(f"{where}: references write too much; write the values out")
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
        return _REFERENCE.sub(lambda found: self.text(found[1], where, above), node)

    def look_up(self, key: str, where: str, above: tuple[str, ...]) -> Any:
        if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
            raise ValueError(f"{where}: ${{{key}}} is refused; {ALLOWED}")
        if key in above:
            raise ValueError(f"{where}: ${{{key}}} leads back to itself; give one of these keys a value")
        node: Any = self.tree
        for name in key.split("."):
            if not isinstance(node, dict) or name not in node:
                raise ValueError(
                    f"{where}: the key {key!r} of ${{{key}}} is not found; correct this key or what it names"
                )
            node = node[name]
        return self.value(node, key, (*above, key))

    def text(self, key: str, where: str, above: tuple[str, ...]) -> str:
        found = self.look_up(key, where, above)
        if isinstance(found, (dict, list)):
            raise ValueError(f"{where}: ${{{key}}} is a {type(found).__name__}, which cannot stand within a text")
        written = str(found)
        self.work += len(written)
        return written


ALLOWED = "a reference names another key of the recipe, as ${training.max_steps}, and nothing else"
