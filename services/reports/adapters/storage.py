"""Object storage: a folder of this machine, or a bucket."""

import asyncio
import contextlib
import errno
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from shared.config import secret_files

BLOCK_BYTES = 1024 * 1024
"""Bytes of one read. Each read from a bucket is one request."""

PIECE_BYTES = 5 * 1024 * 1024
"""Bytes of one write: the smallest piece of an object that S3 accepts."""


class NotStored(Exception):
    """The storage failed; a later try may succeed. The text contains no path and no key."""


class Missing(Exception):
    """The object does not exist."""


class Storage:
    """Objects in a folder or in a bucket. A write either stores the whole object or nothing. All methods raise
    `NotStored`; those that read raise `Missing` too."""

    def __init__(self, url: str) -> None:
        self._store: ObjectStore = _local(url) if url.startswith("file:") else from_url(url, config=_login())

    async def put(self, name: str, data: bytes | Path | AsyncIterator[bytes]) -> int:
        """Write an object, or replace it; return its size in bytes."""
        blocks = _blocks(data) if isinstance(data, Path) else data  # the library would read the file into memory
        with _plain_errors("writing"):
            # With one piece at a time, memory holds no more of the object than that piece.
            await obstore.put_async(self._store, name, blocks, chunk_size=PIECE_BYTES, max_concurrency=1)
        return await self.size(name)

    async def save(self, name: str, target: Path) -> None:
        """Copy an object to a file."""
        with target.open("wb") as file:
            async for block in self.stream(name):
                await asyncio.to_thread(file.write, block)

    async def stream(self, name: str) -> AsyncIterator[bytes]:
        """A whole object in blocks."""
        async for block in self.read(name, 0, await self.size(name) - 1):
            yield block

    async def size(self, name: str) -> int:
        """The size of an object in bytes."""
        with _plain_errors("reading"):
            return (await obstore.head_async(self._store, name))["size"]

    async def read(self, name: str, first: int, last: int) -> AsyncIterator[bytes]:
        """The bytes from `first` to `last`, both included, in blocks. (The library's own stream of a file has blocks of
        8 KiB and takes ten times as long.)"""
        for start in range(first, last + 1, BLOCK_BYTES):
            with _plain_errors("reading"):
                end = min(start + BLOCK_BYTES, last + 1)
                yield bytes(await obstore.get_range_async(self._store, name, start=start, end=end))

    async def remove(self, prefix: str) -> None:
        """Remove all objects whose names begin with `prefix`, which ends with a slash."""
        with _plain_errors("removing"):
            if isinstance(self._store, LocalStore):  # the folder may also hold unfinished files of killed processes
                await asyncio.to_thread(_remove_folder, Path(str(self._store.prefix)) / prefix)
                return
            async for found in obstore.list(self._store, prefix):
                names = [entry["path"] for entry in found]
                with contextlib.suppress(Missing):  # another process removes them at the same time
                    await obstore.delete_async(self._store, names)

    async def remove_unfinished(self, name: str) -> None:
        """Remove the unfinished files of an object that killed processes left. In a bucket, a lifecycle rule does."""
        if isinstance(self._store, LocalStore):
            with _plain_errors("removing"):
                await asyncio.to_thread(_remove_unfinished, Path(str(self._store.prefix)) / name)


def _login() -> Any:
    """The AWS_* settings that are files. The library reads the environment by itself; a variable takes precedence."""
    found = secret_files.read(os.environ.get(secret_files.VARIABLE), "AWS_")
    return {name: value for name, value in found.items() if name not in os.environ}


async def _blocks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
            yield block


def _remove_folder(folder: Path) -> None:
    def fail(_: Any, __: Any, failure: Any) -> None:
        if not isinstance(failure[1], FileNotFoundError):  # another process removes the folder at the same time
            raise failure[1]

    shutil.rmtree(folder, onerror=fail)


def _remove_unfinished(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # another process removes the folder at the same time
        for left in path.parent.glob(f"{path.name}#*"):  # the library writes a file of this name, then renames it
            left.unlink(missing_ok=True)


def _local(url: str) -> LocalStore:
    return LocalStore(Path(unquote(urlsplit(url).path)), mkdir=True, automatic_cleanup=True)


@contextlib.contextmanager
def _plain_errors(action: str) -> Iterator[None]:
    """Replace the library's errors, whose texts contain paths, hosts and requests."""
    try:
        yield
    except FileNotFoundError as error:
        raise Missing("there is no such object") from error
    except (BaseError, OSError) as error:
        is_full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        why = "no space is left" if is_full else "the storage does not do it now"
        raise NotStored(f"{action} a report's file failed: {why}") from error
