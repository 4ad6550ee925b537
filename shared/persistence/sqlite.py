"""SQLite connections that send a statement to their thread once, in place of four times.

aiosqlite makes a cursor, executes, fetches and closes, each in its own round trip to the thread. For a batch of one
message these round trips were most of the time that its transaction took.
"""

import sqlite3
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import aiosqlite

PREFETCHED = 1_000
"""Rows that are fetched together with the statement. Further rows are fetched when they are read."""


class Connection(aiosqlite.Connection):
    """aiosqlite's connection with `Cursor` as cursors."""

    def cursor(self) -> "Cursor":  # type: ignore[override]
        return Cursor(self)


class Cursor:
    """A cursor with the methods that SQLAlchemy's adapter calls."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._open: sqlite3.Cursor | None = None  # only while rows remain to be fetched
        self._rows: deque[Any] = deque()
        self.description: Any = None
        self.lastrowid: int | None = None
        self.rowcount, self.arraysize = -1, 1

    async def __aenter__(self) -> "Cursor":
        return self

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> "Cursor":
        await self._run("execute", sql, parameters)
        return self

    async def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> "Cursor":
        await self._run("executemany", sql, parameters)
        return self

    async def _run(self, how: str, sql: str, parameters: Any) -> None:
        await self.close()
        await self._in_thread(self._run_here, how, sql, parameters)

    def _run_here(self, how: str, sql: str, parameters: Any) -> None:
        cursor = self._connection._conn.cursor()
        getattr(cursor, how)(sql, parameters)
        self.description, self.lastrowid = cursor.description, cursor.lastrowid
        self._rows = deque(cursor.fetchmany(PREFETCHED) if cursor.description else ())
        self.rowcount = cursor.rowcount  # known once the rows are fetched
        if len(self._rows) < PREFETCHED:
            cursor.close()
        else:
            self._open = cursor

    async def fetchone(self) -> Any:
        rows = await self.fetchmany(1)
        return rows[0] if rows else None

    async def fetchmany(self, size: int | None = None) -> list[Any]:
        wanted = size or self.arraysize
        if len(self._rows) < wanted and self._open:
            self._rows.extend(await self._in_thread(self._open.fetchmany, wanted - len(self._rows)))
        return [self._rows.popleft() for _ in range(min(wanted, len(self._rows)))]

    async def fetchall(self) -> list[Any]:
        rows = [*self._rows, *(await self._in_thread(self._open.fetchall) if self._open else ())]
        self._rows.clear()
        return rows

    async def close(self) -> None:
        if self._open:
            closing, self._open = self._open, None
            await self._in_thread(closing.close)

    async def _in_thread(self, call: Any, *arguments: Any) -> Any:
        return await self._connection._execute(call, *arguments)  # type: ignore[no-untyped-call]


def connect(*arguments: Any, **more: Any) -> Connection:
    """A connection to be awaited; arguments are those of `sqlite3.connect`."""
    connection = Connection(partial(sqlite3.connect, *arguments, **more), iter_chunk_size=64)
    connection._thread.daemon = True  # otherwise the thread keeps an ending process alive
    return connection
