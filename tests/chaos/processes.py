"""Programs of `tests.integration.programs` as processes of their own, to be killed."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator

from shared.persistence.database import migrate
from tests import forking


@contextlib.asynccontextmanager
async def program(name: str, *arguments: str) -> AsyncIterator[forking.Forked]:
    """One that runs; whatever is left of it is killed at the end."""
    process = forking.start(f"tests.integration.programs.{name}", *arguments)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.to_thread(process.wait)


@contextlib.asynccontextmanager
async def stock_process(amqp_url: str, database_url: str, how: str = "") -> AsyncIterator[forking.Forked]:
    """Stock on a migrated database."""
    await asyncio.to_thread(migrate, "stock", database_url)
    async with program("stock", amqp_url, database_url, how) as process:
        yield process
