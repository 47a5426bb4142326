"""Shards at a URL: each file is downloaded to a local cache folder once, and then read from there.

    https://host/acdc_wds ─ manifest.json, then the shards of one split ─► CACHE_DIR/acdc_wds-<hash of the URL>/

A file is downloaded under a lock, checked against the manifest, and renamed when it is complete. So no file is
downloaded twice, and no rank reads an incomplete file. The server only needs to support plain downloads.
data/shards/streamed.py opens manifest and shards at the URL and copies nothing.
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
from utils.files import atomic_path, blake2b, user_path

PROTOCOLS = ("http", "https", "s3", "gs", "hf")
CONNECT_SECONDS, SILENCE_SECONDS = 30.0, 60.0  # longest wait for a connection, and for the next bytes
SLOWEST_BYTES_PER_SECOND = 50_000  # a slower download is stopped
MAX_MANIFEST_BYTES = 64 << 20
CHUNK_BYTES = 4 << 20


def folder_or_url(text: str) -> Path | str:
    """Return a local folder as a path, or a URL unchanged."""
    return text if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) else user_path(text)


def local_folder(shards: str | Path, split: str, cache_dir: str | Path | None = None) -> Path:
    """Return the local folder of shards; for a URL, download the files that are not yet in the cache.

    Args:
        shards: a local folder, or its URL.
        split: train, val or test; for a URL, only the shards of this split are downloaded.
        cache_dir: folder for downloaded files; None for `titok_mri` in the user's cache folder.
    Returns:
        The local folder.
    Raises:
        OSError: when a file cannot be downloaded.
        ValueError: for a URL that is not allowed, or a file that differs from the manifest.
    """
    place = checked_place(shards)
    if isinstance(place, Path):
        return place
    url = place
    name = re.sub(r"[^A-Za-z0-9_-]", "_", url.rsplit("/", 1)[1])[:64]  # readable; the hash makes it unique
    digest = hashlib.blake2b(url.encode(), digest_size=8).hexdigest()
    folder = Path(cache_dir or default_cache_dir()) / f"{name}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        _fetch_split(url, folder, split)
    return folder


def checked_place(shards: str | Path) -> Path | str:
    """Check the location of shards.

    Args:
        shards: a local folder, or its URL.
    Returns:
        The path of the folder, or the URL without a slash at the end.
    Raises:
        ValueError: for a URL that is not allowed, or a command.
    """
    text = str(shards)
    if re.match(r"pipe:", text) or "::" in text:
        raise ValueError(f"refused dataset.shards {text!r}: commands (pipe:) and chained URLs (::) are never opened")
    return place if isinstance(place := folder_or_url(text), Path) else _checked_url(text)


def default_cache_dir() -> Path:
    """Return `titok_mri` in the user's cache folder."""
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
            "settings are written to the output folder, so keep credentials in the environment"
        )
    return text.rstrip("/")


def _fetch_split(url: str, folder: Path, split: str) -> None:
    for left in folder.glob(".????????.*"):  # left by a killed process; the lock excludes all others
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
                content = f"{size} bytes instead of {expected}" if size != expected else "another content (BLAKE2b)"
                raise ValueError(
                    f"{source}: has {content}, which differs from the manifest; restore the file on the server, or, if "
                    f"the data were converted again, remove {folder}"
                )


def _manifest(url: str, folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            _download(f"{url}/manifest.json", file, MAX_MANIFEST_BYTES)
    try:
        return read_manifest(folder)
    except ValueError as error:
        path.unlink()  # so that the next run downloads it again
        raise ValueError(f"{url}: {error}") from error


def manifest_at(place: Path | str) -> dict[str, Any]:
    """Read the manifest of a local folder, or of a URL without a copy on disk.

    Args:
        place: from `checked_place`.
    Returns:
        The content of the manifest, see `read_manifest`.
    Raises:
        OSError: when the file is missing or cannot be downloaded.
        ValueError: when the file is not a manifest.
    """
    if isinstance(place, Path):
        return read_manifest(place)
    source, file = f"{place}/manifest.json", io.BytesIO()
    _download(source, file, MAX_MANIFEST_BYTES)
    try:
        manifest = json.loads(file.getvalue())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source}: not valid JSON ({error}); convert the data again") from None
    return check_manifest(manifest, source)


def open_shard(place: Path | str, file: str, size: int) -> IO[bytes]:
    """Open a shard at its location, for reading from start to end without a time limit.

    Args:
        place: from `checked_place`.
        file: name of the shard.
        size: size in bytes.
    Returns:
        The open file.
    """
    return (place / file).open("rb") if isinstance(place, Path) else _open(f"{place}/{file}", size, None)


def _download(source: str, target: IO[bytes], most_bytes: int) -> int:
    """Download a file and return its size in bytes; a file of more than `most_bytes` is refused."""
    size = 0
    try:
        with _open(source, most_bytes, SILENCE_SECONDS + most_bytes / SLOWEST_BYTES_PER_SECOND) as stream:
            while size <= most_bytes and (data := stream.read(CHUNK_BYTES)):
                size += target.write(data)
    except Exception as error:  # the libraries of the protocols raise different errors
        raise OSError(
            f"{source}: could not be downloaded ({type(error).__name__}: {error}); check the URL, the server and "
            "that the file exists"
        ) from error
    if size > most_bytes:
        raise ValueError(f"{source}: is larger than {most_bytes} bytes, the expected maximum")
    return size


def _open(source: str, size: int, seconds: float | None) -> IO[bytes]:
    """Open a remote file for reading once; over http the whole reading may take at most `seconds`."""
    import fsspec  # imported here, like aiohttp: local folders need neither

    protocol = source.split("://")[0].lower()
    if not protocol.startswith("http"):
        return fsspec.filesystem(protocol, skip_instance_cache=True).open(source, "rb")  # has its own timeouts
    import aiohttp

    limits = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
    options = {"timeout": limits, "trust_env": True}
    system = fsspec.filesystem(protocol, skip_instance_cache=True, client_kwargs=options)
    return system.open(
        source, "rb", block_size=0, size=size
    )  # block_size 0 streams: the server need not support ranges
