"""Where a script computes."""

import torch


def pick_device(name: str) -> torch.device:
    """The device that a name means.

    Args:
        name: `cpu`, `cuda`, `cuda:1` ..., or `auto` for a GPU where there is one.

    Returns:
        A device that holds tensors.

    Raises:
        ValueError: for a device that is unknown or not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name} cannot be used here ({str(error).splitlines()[0]}); try cpu") from None
