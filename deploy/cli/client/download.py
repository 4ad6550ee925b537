"""Downloads a report's file, and goes on with an earlier download that broke off."""

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import httpx

from deploy.cli.client.connection import CONNECTIONS, Body, Connection
from deploy.cli.errors import Failed


async def download(connection: Connection, report: Body, target: Path, seen: Callable[[int], None]) -> None:
    """Write a report's file to `target`, whole or not at all. `seen` is called with the number of bytes so far.

    A download that broke off leaves a file beside `target`, and the next call goes on with that file. A symbolic link
    stays a symbolic link.
    """
    target, part = _target_and_part(target, report)
    with part.open("ab") as file:
        for _ in range(CONNECTIONS):
            seen(file.tell())
            if file.tell() < report["bytes"]:
                await _fetch(connection, report, file, seen)
            if file.tell() >= report["bytes"]:
                break
        else:
            raise Failed(f"the connection breaks again and again; the same command goes on from {file.tell()} bytes")
    if _sha256(part) != report["sha256"]:
        part.unlink()
        raise Failed("what came is not the report's file; the same command fetches it anew")
    part.replace(target)


async def _fetch(connection: Connection, report: Body, file: BinaryIO, seen: Callable[[int], None]) -> None:
    """Append to `file` what arrives of the report's file, from where `file` ends until the connection breaks."""
    path, etag = f"/v1/reports/{report['id']}/download", f'"{report["sha256"]}"'
    headers = {"Accept-Encoding": "identity"}
    if file.tell():
        headers |= {"Range": f"bytes={file.tell()}-", "If-Range": etag}
    with contextlib.suppress(httpx.HTTPError):
        async with connection.stream(path, headers) as answer:
            if answer.status_code != httpx.codes.PARTIAL_CONTENT:
                file.seek(0)
                file.truncate()
            async for chunk in answer.aiter_bytes():
                file.write(chunk)
                seen(file.tell())


def _target_and_part(target: Path, report: Body) -> tuple[Path, Path]:
    real = target.resolve()
    return real, real.with_name(f".{real.name}.{str(report['id'])[-12:]}.part")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
