"""Lists the files of an input folder that a source does not read."""

from collections.abc import Mapping

MOST_NAMED = 50


def print_unread(unread: Mapping[str, str]) -> None:
    """Print the files that a source does not read; never written to a file, since names can be names of persons.

    Args:
        unread: path below the input folder -> reason.
    """
    if unread:
        print(f"not read in the input folder ({len(unread)}):")
    for name in sorted(unread)[:MOST_NAMED]:
        print(f"  {name}: {unread[name]}")
    if len(unread) > MOST_NAMED:
        print(f"  and {len(unread) - MOST_NAMED} more")
