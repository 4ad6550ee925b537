"""Our cursor over SQLite's connection gives what SQLAlchemy's own would."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from shared.persistence.database import Database
from shared.persistence.sqlite import PREFETCHED

metadata = MetaData()
numbers = Table("numbers", metadata, Column("n", Integer, primary_key=True))
MANY = 3 * PREFETCHED + 1


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    found = Database(f"sqlite:///{tmp_path}/n.db")
    await found.create_all(metadata)
    async with found.transaction() as session:
        await session.execute(insert(numbers), [{"n": n} for n in range(MANY)])
    yield found
    await found.dispose()


@pytest.mark.parametrize("number", [0, 1, PREFETCHED - 1, PREFETCHED, PREFETCHED + 1, MANY])
async def test_all_rows_of_a_result_come_in_their_order(database: Database, number: int) -> None:
    query = select(numbers.c.n).where(numbers.c.n < number).order_by(numbers.c.n)
    async with database.reading() as session:
        assert (await session.scalars(query)).all() == list(range(number))
        streamed = [n async for n in await session.stream_scalars(query)]
        assert streamed == list(range(number))


async def test_a_stream_that_is_left_in_the_middle_holds_up_nobody(database: Database) -> None:
    async with database.reading() as session:
        async for _ in await session.stream_scalars(select(numbers.c.n)):
            break
    async with database.transaction() as session:
        await session.execute(delete(numbers))
    async with database.reading() as session:
        assert not (await session.scalars(select(numbers.c.n))).all()


async def test_how_many_rows_a_statement_changed_is_known(database: Database) -> None:
    async with database.transaction() as session:
        changed = await session.execute(update(numbers).where(numbers.c.n < 7).values(n=-1 - numbers.c.n))
        assert changed.rowcount == 7  # type: ignore[attr-defined]
        deleted = await session.execute(delete(numbers).where(numbers.c.n < 0).returning(numbers.c.n))
        assert len(deleted.all()) == 7


async def test_an_error_is_sqlalchemys_and_the_connection_goes_on(database: Database) -> None:
    async with database.transaction() as session:
        with pytest.raises(IntegrityError):
            async with session.begin_nested():
                await session.execute(insert(numbers).values(n=1))
        assert await session.scalar(text("SELECT 1")) == 1
