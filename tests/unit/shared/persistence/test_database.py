"""What counts as an outage, and what does not."""

import asyncio
import sqlite3
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError, ProgrammingError

from shared.config.urls import with_driver
from shared.outages import Trouble
from shared.persistence.database import Backoff, Database, Outage, is_outage, migrate


class Refusal(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    "state",
    [
        "08006",
        "40001",
        "40P01",
        "53300",
        "57P01",
        "57P03",
        "58030",
        "55P03",
        "25006",
        "28P01",
        "25P03",
        "26000",
        "0A000",
    ],
)
def test_a_database_that_cannot_answer_now_is_an_outage(state: str) -> None:
    assert is_outage(DBAPIError("SELECT", {}, Refusal(state)))


@pytest.mark.parametrize("state", ["42P01", "42703", "42P10", "3F000", "42501", "XX001", "XX002", "F0000"])
def test_a_database_that_is_unfit_for_every_message_is_an_outage(state: str) -> None:
    assert is_outage(DBAPIError("SELECT", {}, Refusal(state)))


@pytest.mark.parametrize("state", ["23505", "23514", "22001", "42601", "42804", "54000", "22021", ""])
def test_a_statement_that_is_wrong_is_none(state: str) -> None:
    assert not is_outage(DBAPIError("SELECT", {}, Refusal(state)))


def test_a_value_that_the_driver_cannot_send_is_none() -> None:
    """asyncpg says so without a SQLSTATE, as of a connection that is closed."""
    refused = Exception("invalid input for query argument $1")
    refused.__cause__ = ValueError("value out of int32 range")
    assert not is_outage(InterfaceError("SELECT", {}, refused))
    assert not is_outage(InterfaceError("SELECT", {}, sqlite3.InterfaceError("Error binding parameter 0")))


def test_lost_connections_are_outages_and_errors_of_ours_are_not() -> None:
    assert is_outage(OperationalError("SELECT", {}, Exception("the server is gone")))
    assert is_outage(TimeoutError())
    assert is_outage(InterfaceError("SELECT", {}, Exception("connection is closed")))
    assert is_outage(Outage("gone"))
    assert is_outage(DBAPIError("SELECT", {}, Refusal(""), connection_invalidated=True))
    for error in (
        IntegrityError("x", {}, Exception()),
        ProgrammingError("x", {}, Exception()),
        ValueError(),
        KeyError(),
    ):
        assert not is_outage(error)


async def test_postgresql_that_is_not_there_is_an_outage() -> None:
    database = Database("postgresql://nobody@127.0.0.1:9/none")
    with pytest.raises(Outage, match="no connection to the database"):
        async with database.transaction():
            pass
    await database.dispose()


async def test_an_answer_that_does_not_come_is_an_outage_though_its_error_says_nothing(tmp_path: Any) -> None:
    database = Database(f"sqlite:///{tmp_path}/x.db")
    with pytest.raises(Outage, match=r"x\.db: no answer in time"):
        async with database.reading():
            raise TimeoutError
    await database.dispose()


async def test_a_file_that_may_only_be_read_is_named(tmp_path: Any) -> None:
    """By its permissions, or because its disk is mounted so; not shown by those, as root may write all the same."""
    file = tmp_path / "x.db"
    await asyncio.to_thread(migrate, "stock", f"sqlite:///{file}")
    database = Database(f"sqlite:///{file}")
    only_reading = "PRAGMA query_only=ON"
    event.listen(database._writer.sync_engine, "checkout", lambda made, *_: made.cursor().execute(only_reading))
    with pytest.raises(Outage, match=r"x\.db.*: attempt to write a readonly database; check the rights") as why:
        async with database.transaction() as session:
            await session.execute(text("DELETE FROM inbox"))
    assert database.noted(Trouble.FORBIDS) == str(why.value)
    await database.dispose()


async def test_sqlite_lets_readers_read_while_a_writer_writes(tmp_path: Any) -> None:
    database = Database(f"sqlite:///{tmp_path}/x.db")
    await database.create_all()
    async with database.transaction() as writer:
        await writer.execute(text("INSERT INTO inbox VALUES ('m', 'stock', 1)"))
        async with asyncio.timeout(60), database.reading() as reader:
            assert await reader.scalar(text("SELECT count(*) FROM inbox")) == 0
    async with database.reading() as reader:
        assert await reader.scalar(text("SELECT count(*) FROM inbox")) == 1
        assert await reader.scalar(text("PRAGMA journal_mode")) == "wal"
        assert await reader.scalar(text("PRAGMA synchronous")) == 2
    await database.dispose()


def test_addresses_are_given_without_a_driver() -> None:
    assert with_driver("postgres://h/d").drivername == "postgresql+asyncpg"
    assert with_driver("sqlite:////x.db").drivername == "sqlite+aiosqlite"
    with pytest.raises(ValueError, match="not mysql://"):
        with_driver("mysql://h/d")


async def test_waits_grow_and_start_over(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    backoff = Backoff()
    for _ in range(50):
        await backoff.wait()
    assert max(waits[:2]) <= 0.2
    assert 1 < max(waits) <= 5
    backoff.reset()
    await backoff.wait()
    assert waits[-1] <= 0.1
