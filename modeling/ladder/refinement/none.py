"""No refinement: decoded components stay as they are."""

from dataclasses import dataclass


@dataclass
class Options:
    """No options."""


def build(options: Options) -> None:
    """Build nothing."""
    return None
