"""What a database is asked, in batches of any size."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from services.stock.store import Product
from shared.messaging import inbox
from shared.persistence.database import Database, Outage, load
from tests.integration.test_races import a_product
from tests.migrated import migrate


@pytest.fixture
async def session(database_url: str) -> AsyncIterator[AsyncSession]:
    await asyncio.to_thread(migrate, "stock", database_url)
    database = Database(database_url)
    async with database.transaction() as session:
        yield session
    await database.dispose()


def ids(number: int) -> list[str]:
    return [str(uuid7()) for _ in range(number)]


async def a_batch(session: AsyncSession, size: int) -> None:
    messages = ids(size)
    await inbox.begin_attempts(session, "stock", messages, "me")
    assert not await inbox.done(session, "stock", messages)
    await load(session, Product, messages, lock=True)
    assert await inbox.claim(session, "stock", messages) == {*messages}
    assert await inbox.claim(session, "stock", messages) == set()
    await inbox.give_back(session, "stock", messages, "me")
    await inbox.end_attempts(session, "stock", messages)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_batches_of_any_size_are_the_same_statements_planned_for_the_table_as_it_is(
    session: AsyncSession,
) -> None:
    """Or each would be prepared anew; and a plan from when the table was empty would read all of it, row by row."""
    with_parameters = "FROM pg_prepared_statements WHERE parameter_types != '{}'"
    prepared = text(f"SELECT count(*), sum(generic_plans), sum(custom_plans) {with_parameters}")
    await a_batch(session, 1)
    statements, *_ = (await session.execute(prepared)).one()
    for size in range(2, 12):
        await a_batch(session, size)
    after, kept, made = (await session.execute(prepared)).one()
    assert (after, kept) == (statements, 0)
    assert made


async def test_a_key_that_is_longer_than_its_column_is_nobodys(session: AsyncSession) -> None:
    longest = "S" * 40
    session.add(a_product(longest, 1))
    await session.flush()
    assert [row.sku for row in await load(session, Product, [longest])] == [longest]
    assert await load(session, Product, [longest + "!"]) == []


async def test_ids_of_any_text_are_claimed_as_they_are(session: AsyncSession) -> None:
    strange = {"a,b", "{a}", '"', "'", "\\", "é", "NULL", "null", "1", "a\nb", "%", ""}
    assert await inbox.claim(session, "stock", strange) == strange
    assert await inbox.done(session, "stock", strange) == strange


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_the_planner_is_set_for_each_connection_also_after_a_rollback(database_url: str) -> None:
    database = Database(database_url)
    for _ in range(2):
        async with database.reading() as session:
            shown = [await session.scalar(text(f"SHOW {name}")) for name in ("jit", "plan_cache_mode")]
            assert shown == ["off", "force_custom_plan"]
    await database.dispose()


async def test_a_connection_asks_for_no_more_at_its_start_than_pgbouncer_lets_through() -> None:
    """It hangs up on anything else: https://www.pgbouncer.org/config.html#ignore_startup_parameters."""
    asked: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (size := int.from_bytes(await reader.readexactly(4), "big")) == 8:  # a question for TLS comes first
            await reader.readexactly(4)
            writer.write(b"N")
        asked.append((await reader.readexactly(size - 4))[4:])
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    async with server:
        database = Database(f"postgresql://malote@127.0.0.1:{server.sockets[0].getsockname()[1]}/stock")
        with pytest.raises(Outage):
            async with database.reading():
                pass
        await database.dispose()
    names = set(asked[0].split(b"\0")[0:-2:2])
    assert names <= {b"user", b"database", b"client_encoding", b"application_name"}


async def test_whoever_looks_into_a_sqlite_file_takes_nothing_of_it_away(tmp_path: Path) -> None:
    """SQLite removes its log with the last user of a file, and knows users by their locks: a process keeps its own,
    however many connections it makes."""
    path = tmp_path / "s.db"
    database = Database(f"sqlite:///{path}")
    async with database.transaction() as session:
        await session.execute(text("CREATE TABLE t (x INTEGER)"))
    async with database.reading() as one, database.reading() as other:
        for session in (one, other):
            await session.execute(text("SELECT * FROM t"))
    look = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT * FROM t').fetchall()"
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", look, str(path)], check=True, timeout=60)
    assert path.with_name("s.db-wal").exists()
    await database.dispose()
