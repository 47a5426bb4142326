"""Shards behind a URL: copied whole to a local cache folder on first use, and read from there ever after.

    https://host/acdc_wds ─ manifest.json, then the shards of one split ─► CACHE_DIR/acdc_wds-<hash of the URL>/

A file is fetched under a lock, checked against the manifest, and put in place whole or not at all, so that ranks
never fetch twice nor read half. The server needs no more than plain downloads. For data/shards/streamed.py, manifest
and shards are opened where they are, and nothing is copied.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from filelock import FileLock

from data.shards.manifest import check_manifest, read_manifest
from utils.files import atomic_path, blake2b

PROTOCOLS = ("http", "https", "s3", "gs", "hf")
CONNECT_SECONDS, SILENCE_SECONDS = 30.0, 60.0  # a server that says nothing for so long is given up,
SLOWEST_BYTES_PER_SECOND = 50_000  # and so is one that is slower than this
MAX_MANIFEST_BYTES = 64 << 20
CHUNK_BYTES = 4 << 20


def folder_or_url(text: str) -> Path | str:
    """What a user says of shards: the path of a local folder, or a URL as it stands."""
    return text if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) else Path(text)


def local_folder(shards: str | Path, split: str, cache_dir: str | Path | None = None) -> Path:
    """The local folder of some shards; those behind a URL are fetched unless they are there already.

    Args:
        shards: a local folder, or the URL of one.
        split: train, val or test; of a URL, the shards of this split alone are fetched.
        cache_dir: where copies are kept; None for `titok_mri` in the user's cache folder.
    Raises:
        OSError: when a file cannot be fetched.
        ValueError: for a URL that is not allowed, or a file that is not what the manifest says; each named.
    """
    place = checked_place(shards)
    if isinstance(place, Path):
        return place
    url = place
    name = re.sub(r"[^A-Za-z0-9_-]", "_", url.rsplit("/", 1)[1])[:64]  # for people; the hash keeps URLs apart
    digest = hashlib.blake2b(url.encode(), digest_size=8).hexdigest()
    folder = Path(cache_dir or default_cache_dir()) / f"{name}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        _fetch_split(url, folder, split)
    return folder


def checked_place(shards: str | Path) -> Path | str:
    """The path of a local folder of shards, or the URL of one without a slash at its end.

    Raises:
        ValueError: for a URL that is not allowed, and for a command.
    """
    text = str(shards)
    if re.match(r"pipe:", text) or "::" in text:
        raise ValueError(f"refused dataset.shards {text!r}: commands (pipe:) and chained URLs (::) are never opened")
    return Path(shards) if isinstance(folder_or_url(text), Path) else _checked_url(text)


def default_cache_dir() -> Path:
    """`titok_mri` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "titok_mri"


def _checked_url(text: str) -> str:
    url = urlsplit(text)
    if url.scheme.lower() not in PROTOCOLS:
        raise ValueError(
            f"refused dataset.shards {text!r}: expected a local folder or one of {', '.join(PROTOCOLS)}://"
        )
    if url.query or url.fragment or (url.scheme.lower().startswith("http") and "@" in url.netloc):
        raise ValueError(
            f"refused dataset.shards at {url.hostname}: expected the URL of a folder without user, password, ? and #; "
            "runs write their settings down, so keep credentials in the environment"
        )
    return text.rstrip("/")


def _fetch_split(url: str, folder: Path, split: str) -> None:
    for left in folder.glob(".????????.*"):  # by a process that was killed: whoever holds the lock is alone
        left.unlink()
    for shard in _manifest(url, folder)["shards"][split]:
        path, expected = folder / shard["file"], shard["bytes"]
        if path.is_file() and path.stat().st_size == expected:
            continue
        with atomic_path(path) as temporary:
            source = f"{url}/{shard['file']}"
            with temporary.open("wb") as file:
                size = _download(source, file, expected)
            if size != expected or blake2b(temporary) != shard.get("blake2b"):
                found = f"{size} bytes instead of {expected}" if size != expected else "another content (BLAKE2b)"
                raise ValueError(
                    f"{source}: has {found}, which is not what the manifest describes; restore it there, and if the "
                    f"data were made anew, remove {folder}"
                )


def _manifest(url: str, folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            _download(f"{url}/manifest.json", file, MAX_MANIFEST_BYTES)
    try:
        return read_manifest(folder)
    except ValueError as error:
        path.unlink()  # what the server gives next may be better
        raise ValueError(f"{url}: {error}") from error


def manifest_at(place: Path | str) -> dict[str, Any]:
    """The manifest of a local folder, or of a URL, which is not copied to the disk.

    Args:
        place: from `checked_place`.
    Raises:
        OSError: when it is missing or cannot be fetched.
        ValueError: when it is not a manifest.
    """
    if isinstance(place, Path):
        return read_manifest(place)
    source, file = f"{place}/manifest.json", io.BytesIO()
    _download(source, file, MAX_MANIFEST_BYTES)
    try:
        manifest = json.loads(file.getvalue())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source}: not valid JSON ({error}); make the shards there anew") from None
    return check_manifest(manifest, source)


def open_shard(place: Path | str, file: str, size: int) -> IO[bytes]:
    """Open a shard where it is, to be read from front to back at any pace.

    Args:
        place: from `checked_place`.
        file: name of the shard.
        size: its bytes.
    """
    return (place / file).open("rb") if isinstance(place, Path) else _open(f"{place}/{file}", size, None)


def _download(source: str, target: IO[bytes], most_bytes: int) -> int:
    """Copy a remote file; returns its size. A file of more than `most_bytes` is refused before it fills the disk."""
    size = 0
    try:
        with _open(source, most_bytes, SILENCE_SECONDS + most_bytes / SLOWEST_BYTES_PER_SECOND) as stream:
            while size <= most_bytes and (data := stream.read(CHUNK_BYTES)):
                size += target.write(data)
    except Exception as error:  # each protocol has a library with errors of its own
        raise OSError(
            f"{source}: could not be fetched ({type(error).__name__}: {error}); check the address, that the server "
            "answers, and that the file is there"
        ) from error
    if size > most_bytes:
        raise ValueError(f"{source}: is larger than {most_bytes} bytes, which is what was expected at most")
    return size


def _open(source: str, size: int, seconds: float | None) -> IO[bytes]:
    """Open a remote file for one pass; over http it is given up when it is not read to its end in these seconds."""
    import fsspec  # here, as aiohttp: local folders need neither

    protocol = source.split("://")[0].lower()
    if not protocol.startswith("http"):
        return fsspec.filesystem(protocol, skip_instance_cache=True).open(source, "rb")  # has timeouts of its own
    import aiohttp

    limits = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
    options = {"timeout": limits, "trust_env": True}
    system = fsspec.filesystem(protocol, skip_instance_cache=True, client_kwargs=options)
    return system.open(source, "rb", block_size=0, size=size)  # a stream: servers need not know ranges
