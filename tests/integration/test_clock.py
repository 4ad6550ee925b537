"""The clock that decides over forgetting."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, MetaData, Table, insert

from shared.messaging import inbox
from shared.persistence import clock
from shared.persistence.database import Database

rows = Table("rows", MetaData(), Column("at", BigInteger, primary_key=True))
HOUR = 3_600_000


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    made = Database(database_url)
    await made.create_all(rows.metadata)
    yield made
    await made.dispose()


async def test_the_database_knows_the_time(database: Database) -> None:
    before = clock.now()
    async with database.reading() as session:
        assert before - 1_000 <= await clock.read(session) <= clock.now() + 1_000


async def test_even_by_a_wrong_time_of_the_database_no_more_than_some_minutes_are_forgotten_in_one(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left after two minutes of it is as old as it was promised to be."""
    now = clock.now()
    ages = [hours * HOUR for hours in range(1, 49)]
    async with database.transaction() as session:
        await session.execute(insert(rows), [{"at": now - age} for age in ages])

    async def read(session: Any) -> int:
        return now + 72 * HOUR

    monkeypatch.setattr(clock, "read", read)
    async with database.reading() as session:
        assert await clock.old_enough(session, rows.c.at, 48 * 3600, 60) == now - 48 * HOUR + 5 * 60_000


async def test_what_is_young_is_kept_and_an_empty_table_is_none(database: Database) -> None:
    async with database.transaction() as session:
        assert await clock.old_enough(session, rows.c.at, 3600, 60) <= clock.now() - HOUR + 1_000
        await session.execute(insert(rows), [{"at": clock.now()}])
        assert await clock.old_enough(session, rows.c.at, 3600, 60) <= clock.now() - HOUR + 1_000


async def test_a_process_whose_clock_is_wrong_remembers_as_long_as_others_what_was_done(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time()
    for days in (-30, 30):
        monkeypatch.setattr(time, "time", lambda days=days: real + days * 86_400)
        async with database.transaction() as session:
            await inbox.claim(session, "stock", [f"{days}"])
            before = await inbox.old_enough(session, keep_days=14, every=30)
            assert await inbox.forget_old(session, before, 10) == 0
