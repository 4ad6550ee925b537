"""Stock as a process of its own, to be killed."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from shared.database import migrate

ROOT = Path(__file__).resolve().parents[2]


@contextlib.asynccontextmanager
async def stock_process(amqp_url: str, database_url: str, how: str = "") -> AsyncIterator[asyncio.subprocess.Process]:
    """`tests.integration.programs.stock` on a migrated database; whatever is left of it is killed at the end."""
    await asyncio.to_thread(migrate, "stock", database_url)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.programs.stock",
        amqp_url,
        database_url,
        how,
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
