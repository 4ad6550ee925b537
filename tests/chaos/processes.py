"""Programs of `tests.integration.programs` as processes of their own, to be killed."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator

from shared.persistence.database import migrate
from tests.several import ROOT


@contextlib.asynccontextmanager
async def program(name: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """One that runs; whatever is left of it is killed at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"tests.integration.programs.{name}",
        *arguments,
        cwd=ROOT,
        start_new_session=True,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


@contextlib.asynccontextmanager
async def stock_process(amqp_url: str, database_url: str, how: str = "") -> AsyncIterator[asyncio.subprocess.Process]:
    """Stock on a migrated database."""
    await asyncio.to_thread(migrate, "stock", database_url)
    async with program("stock", amqp_url, database_url, how) as process:
        yield process
