"""A TCP proxy that fails as networks do."""

import asyncio
import contextlib
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator

from deploy.local.ports import HOST

CHUNK = 65_536


class Link:
    """Passes on what comes to `port` to another port of this machine, until it is told otherwise."""

    def __init__(self, target: int) -> None:
        self.target, self.port = target, 0
        self.delay = 0.0
        """Seconds that each piece waits."""
        self.rate = 0
        """Bytes a second in each direction of a connection; 0: as fast as it goes."""
        self._passing = asyncio.Event()
        self._passing.set()
        self._is_hole = False
        self._connections: dict[asyncio.Task[None], list[StreamWriter]] = {}
        self._forgotten: set[asyncio.Task[None]] = set()

    async def open(self, port: int = 0) -> None:
        """Listen; without a `port`, on a free one."""
        self._server = await asyncio.start_server(self._meet, HOST, port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()
        tasks = list(self._connections)
        self.cut()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- faults -------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Reset all connections; new ones are taken."""
        for task, writers in list(self._connections.items()):
            for writer in writers:
                writer.transport.abort()
            task.cancel()

    def hold(self) -> None:
        """Let nothing pass, until `heal`; then all of it."""
        self._passing.clear()

    def forget(self) -> None:
        """Be a black hole: take connections and let nothing pass. What meets it is never told, not after `heal` either:
        as when a router has forgotten a connection, only new ones work then."""
        self._is_hole = True
        self._forgotten |= set(self._connections)

    def heal(self) -> None:
        """End whatever was wrong."""
        self.delay, self.rate, self._is_hole = 0.0, 0, False
        self._passing.set()

    # -- work ---------------------------------------------------------------------------------------------------

    async def _meet(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._connections[task] = [writer]
        if self._is_hole:
            self._forgotten.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                theirs, ours = await asyncio.open_connection(HOST, self.target)
                self._connections[task].append(ours)
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, ours, task))
                    group.create_task(self._pump(theirs, writer, task))
        except* (OSError, _Ended):
            pass
        finally:
            for open_one in self._connections.pop(task):
                open_one.transport.abort()
            self._forgotten.discard(task)

    async def _pump(self, reader: StreamReader, writer: StreamWriter, connection: "asyncio.Task[None]") -> None:
        while data := await reader.read(CHUNK):
            await self._passing.wait()
            if connection in self._forgotten:
                continue
            if self.delay:
                await asyncio.sleep(self.delay)
            if self.rate:
                await asyncio.sleep(len(data) / self.rate)
            writer.write(data)
            await writer.drain()
        raise _Ended  # one side has closed: so does the other


class _Ended(Exception):
    """A connection came to its end."""


@contextlib.asynccontextmanager
async def link_to(target: int | None, port: int = 0) -> AsyncIterator[Link]:
    """One that is open inside the block."""
    link = Link(target or 0)
    await link.open(port)
    try:
        yield link
    finally:
        await link.close()
