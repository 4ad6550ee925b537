"""PostgreSQL's COPY: many rows as CSV, in blocks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from shared.persistence.database import Database

COPY_BYTES = 1024 * 1024
"""Bytes that are collected from PostgreSQL before they are passed on."""

COPY_SECONDS = 600.0
"""The longest time that one part may take from the database to the storage."""


class Copied:
    """The output of a COPY, in blocks. The reader may stop at any time. The connection is busy until the COPY ends."""

    def __init__(self, mark: bytes) -> None:
        """`mark` comes before the first block."""
        self._blocks: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
        self._block, self._is_wanted = bytearray(mark), True

    def begin(self, connection: Any, query: str, options: dict[str, Any]) -> None:
        """Start the COPY on a connection of asyncpg."""
        self._copying = asyncio.create_task(self._copy(connection, query, options))

    async def _copy(self, connection: Any, query: str, options: dict[str, Any]) -> str:
        try:
            status = await connection.copy_from_query(
                query, output=self._take, format="csv", timeout=COPY_SECONDS, **options
            )
            await self._hand_over()
            return str(status)
        finally:
            if self._is_wanted:
                await self._blocks.put(None)

    async def _take(self, more: bytes) -> None:
        if self._is_wanted:
            self._block.extend(more)
            if len(self._block) >= COPY_BYTES:
                await self._hand_over()

    async def _hand_over(self) -> None:
        if self._is_wanted and self._block:
            await self._blocks.put(bytes(self._block))
            self._block.clear()

    async def blocks(self) -> AsyncIterator[bytes]:
        """All blocks. Raises the error of the COPY, if it failed."""
        while (block := await self._blocks.get()) is not None:
            yield block
        await self._copying

    async def rows(self) -> int:
        """The number of rows, from the status of the COPY: `COPY 200000`."""
        return int((await self._copying).split()[-1])

    async def end(self) -> None:
        """Wait for the end of the COPY, and discard the blocks that were not read."""
        self._is_wanted = False
        if not self._blocks.empty():  # the COPY may wait to put one block; it puts no more after it
            self._blocks.get_nowait()
        await asyncio.gather(self._copying, return_exceptions=True)


@contextlib.asynccontextmanager
async def copying(
    database: Database, query: Any, timezone: str, mark: bytes = b"", **options: Any
) -> AsyncIterator[Copied]:
    """Run a COPY of a query inside the block. Times are printed in `timezone`."""
    async with database.reading() as session:
        # The settings of the database must not change the format of a report.
        settings = text("SELECT set_config('TimeZone', :zone, true), set_config('DateStyle', 'ISO', true)")
        await session.execute(settings, {"zone": timezone})
        connection = (await (await session.connection()).get_raw_connection()).driver_connection
        copied = Copied(mark)
        copied.begin(connection, literal_sql(query, session), options)
        try:
            yield copied
        finally:
            await copied.end()


def literal_sql(query: Any, session: AsyncSession) -> str:
    """A query as text with its values as literals, for what takes no parameters. It needs a connected session, because
    the dialect asks the server whether a backslash in a literal is an escape."""
    return str(query.compile(dialect=session.get_bind().dialect, compile_kwargs={"literal_binds": True}))
