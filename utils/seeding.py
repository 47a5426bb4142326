"""Seeds that depend on names and numbers, not on the order of calls."""

import hashlib
import operator

_MASK_63_BITS = (1 << 63) - 1  # fits a torch.Generator and an int64 tensor


def stable_seed(*parts: str | int) -> int:
    """Hash parts such as (seed, epoch, sample id) to a seed that is equal in all processes and on all machines.

    Args:
        parts: texts and whole numbers; ("a", "b"), ("ab",) and (1,), ("1",) all differ.
    Returns:
        A number in [0, 2**63).
    Raises:
        TypeError: for a part of another type.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        text = f"s{part}" if isinstance(part, str) else f"i{operator.index(part)}"
        data = text.encode("utf-8")
        digest.update(len(data).to_bytes(8, "little") + data)  # the length keeps neighbouring parts apart
    return int.from_bytes(digest.digest(), "little") & _MASK_63_BITS
