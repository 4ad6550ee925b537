"""A database that answers and cannot be used: what is wrong is named, everything waits, and no message is blamed."""

import asyncio
import contextlib
import re
import secrets
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from contracts.orders import OrderPlaced
from contracts.stock import StockReserved
from services.stock.store import Reservation
from shared.messaging.handler import on
from shared.messaging.unit import UnitOfWork
from shared.persistence import database
from shared.persistence.database import migrate
from shared.service import Service
from tests.integration.reserving import RESERVED, count, on_order_placed
from tests.running import Broker, an_order, is_ready, module_of, reserved, running, settings_for, until
from tests.servers import PostgresCluster


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is spoken of for a shorter time after the last meeting."""
    monkeypatch.setattr(database, "NOTED_SECONDS", 1.0)


Breakage = Callable[[Path], "contextlib.AbstractContextManager[None]"]


@contextlib.contextmanager
def no_database(file: Path) -> Iterator[None]:
    """Something else was copied over it."""
    kept = file.read_bytes()
    file.write_bytes(b"this is a text".ljust(len(kept)))
    yield
    file.write_bytes(kept)


@contextlib.contextmanager
def damaged(file: Path) -> Iterator[None]:
    """All pages but the first, which has the schema, are rubbish."""
    kept = file.read_bytes()
    file.write_bytes(kept[:4096] + b"\xa5" * (len(kept) - 4096))
    yield
    file.write_bytes(kept)


@contextlib.contextmanager
def a_table_gone(file: Path) -> Iterator[None]:
    """Or not there yet."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("ALTER TABLE reservations RENAME TO away")
    yield
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("ALTER TABLE away RENAME TO reservations")


@contextlib.contextmanager
def a_column_gone(file: Path) -> Iterator[None]:
    """As a table of an older version has it."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("ALTER TABLE reservations RENAME COLUMN taken_at TO away")
    yield
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("ALTER TABLE reservations RENAME COLUMN away TO taken_at")


@pytest.mark.parametrize(
    ("breakage", "named"),
    [
        (no_database, "is not a database"),
        (damaged, "malformed"),
        (a_table_gone, "no such table: reservations"),
        (a_column_gone, "reservations has no column named taken_at"),
    ],
)
async def test_a_broken_sqlite_file_pauses_the_lane_which_names_it(
    broker: Broker, tmp_path: Path, breakage: Breakage, named: str
) -> None:
    file = tmp_path / "stock.db"
    async with running("stock", broker.url, f"sqlite:///{file}", module_of(on_order_placed)) as stock:
        await stock.database.dispose()  # what is open still has the file's pages in memory
        _checkpoint(file)
        with breakage(file):
            await broker.publish(an_order())
            why = await until(lambda: _paused(stock), "the lane to pause")
            assert named in why
            assert str(file) in why
            assert not await is_ready(stock)
            await stock.database.dispose()
        await _is_done_at_once(broker, stock)


async def test_a_file_that_was_opened_while_it_was_read_only_is_opened_anew(broker: Broker, tmp_path: Path) -> None:
    """Its connection stays as it was opened, also when the right to write is given back."""
    url = f"sqlite:///{tmp_path}/stock.db"
    async with running("stock", broker.url, url, module_of(on_order_placed)) as stock:
        async with stock.database._writer.connect() as connection:
            await connection.exec_driver_sql("PRAGMA query_only=ON")
        with capture_logs() as lines:
            await broker.publish(an_order())
            await until(lambda: count(stock, Reservation), "the effect")
        assert any("readonly database" in str(line.get("why")) for line in lines), "or nothing was shown"
        await _is_done_at_once(broker, stock)


OF_THE_SERVICE = "UPDATE alembic_version SET version_num = '{}' WHERE version_num LIKE 'stock%'"
ROT = """
CREATE FUNCTION rot() RETURNS trigger AS $$ BEGIN
  RAISE 'invalid page in block 7 of relation reservations' USING ERRCODE = 'XX001';
END $$ LANGUAGE plpgsql;
CREATE TRIGGER rot BEFORE INSERT ON reservations EXECUTE FUNCTION rot()
"""


@pytest.mark.parametrize(
    ("breaks", "mends", "named"),
    [
        ("ALTER TABLE reservations RENAME TO away", "ALTER TABLE away RENAME TO reservations", '"reservations"'),
        (
            "ALTER TABLE reservations RENAME taken_at TO away",
            "ALTER TABLE reservations RENAME away TO taken_at",
            '"taken_at" of relation "reservations"',
        ),
        ("REVOKE INSERT ON inbox FROM plain", "GRANT INSERT ON inbox TO plain", "table inbox"),
        (ROT, "DROP FUNCTION rot() CASCADE", "invalid page in block 7 of relation reservations"),
        ("ALTER ROLE plain SET default_transaction_read_only = on", "ALTER ROLE plain RESET ALL", "read-only"),
        (
            "ALTER ROLE plain SET idle_in_transaction_session_timeout = '50ms'",
            "ALTER ROLE plain RESET ALL",
            "connection is closed",
        ),
    ],
    ids=["table", "column", "grant", "page", "read-only", "idle"],
)
async def test_a_broken_postgresql_database_pauses_the_lane_which_names_what_is_missing(
    broker: Broker, plain: str, postgres: PostgresCluster, breaks: str, mends: str, named: str
) -> None:
    @on(OrderPlaced)
    async def on_order_placed(order: OrderPlaced, unit: UnitOfWork) -> StockReserved:
        await asyncio.sleep(0.2)
        unit.add(Reservation(order_id=order.order_id, state="RESERVED", lines={}))
        return reserved(order.order_id)

    everything = plain.replace("plain@", "malote@")
    async with running("stock", broker.url, plain, module_of(on_order_placed)) as stock:
        await _sql(everything, breaks)
        await stock.database.dispose()  # roles' settings are for new connections
        await broker.publish(an_order())
        why = await until(lambda: _paused(stock), "the lane to pause")
        assert named in why
        assert plain.rpartition("@")[2] in why, "host, port and database"
        await _sql(everything, mends)
        await stock.database.dispose()
        await _is_done_at_once(broker, stock)


async def test_a_table_that_is_migrated_under_a_running_service_costs_no_attempt(broker: Broker, plain: str) -> None:
    """PostgreSQL refuses the plans that it has kept, once for each connection."""
    async with running("stock", broker.url, plain, module_of(on_order_placed)) as stock:
        await _one_by_one(broker, stock, 12)  # whatever connection has done it
        await _sql(plain, "ALTER TABLE inbox ALTER message_id TYPE text")
        with capture_logs() as lines:
            await _one_by_one(broker, stock, 12)
        assert any("cached statement plan is invalid" in str(line.get("why")) for line in lines), "or nothing was shown"
        await _is_done_at_once(broker, stock)


async def test_a_database_that_is_not_migrated_is_named_before_a_message_meets_it(
    broker: Broker, database_url: str
) -> None:
    """Neither an empty one nor one of an older version is ready; one of a newer version is."""
    service = Service(settings_for("stock", broker.url, database_url), module_of(on_order_placed))
    async with service.running():
        assert "alembic_version" in str((await service.checks())["database"])
        await asyncio.to_thread(migrate, "stock", database_url)
        await until(lambda: is_ready(service), "the service to be ready")
        async with service.database.transaction() as session:
            await session.execute(text(OF_THE_SERVICE.format("stock_0001")))
        why = str((await service.checks())["database"])
        assert re.search(r"it is at (kernel_\d+), stock_0001, not yet at \1, stock_\d+", why)
        assert why.endswith("; is it migrated? (malote migrate)")
        async with service.database.transaction() as session:
            await session.execute(text(OF_THE_SERVICE.format("stock_9999")))
        assert await is_ready(service)


async def test_what_one_message_brings_with_it_fails_that_message_only(broker: Broker, database_url: str) -> None:
    """The database refuses what is in it, in each of the ways in which data can be wrong."""

    @on(OrderPlaced)
    async def on_order_placed(order: OrderPlaced, unit: UnitOfWork) -> StockReserved:
        for statement in (line.name for line in order.lines if line.sku == "BAD"):
            if statement == "HUGE":
                unit.add(Reservation(order_id=order.order_id, state="RESERVED", lines={}, taken_at=2**70))
            else:
                await unit.session.execute(text(statement))
        return reserved(order.order_id)

    bad = ["HUGE", "INSERT INTO inbox (message_id) VALUES (NULL)", "SELECT broken syntax here"]
    if database_url.startswith("postgresql"):
        bad += ["SELECT 1 / 0", "SELECT CAST('x' AS INTEGER)", "SELECT chr(0)", "SELECT CAST('2026-99-99' AS DATE)"]
    else:
        bad += ["SELECT json('{')", "SELECT abs(-9223372036854775808)"]
    spy = await broker.spy(RESERVED)
    async with running("stock", broker.url, database_url, module_of(on_order_placed), retry_ladder=("100ms",)) as stock:
        for statement in bad:
            wrong = an_order([("BAD", 1)])
            lines = tuple(line.model_copy(update={"name": statement}) for line in wrong.lines)
            await broker.publish(wrong.model_copy(update={"lines": lines}))
            await broker.publish(an_order())
        await spy.collect(len(bad))
        letters = [await broker.take("stock.dlq") for _ in bad]
        assert {letter.headers["failure_attempts"] for letter in letters} == {2}
        assert await is_ready(stock)


# -- helpers -----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def plain(postgres: PostgresCluster) -> AsyncIterator[str]:
    """A database of a user who may do nothing else, unlike the cluster's own."""
    name = f"t{secrets.token_hex(4)}"
    url = postgres.create_database(name)
    await _sql(
        url, f"CREATE ROLE plain LOGIN; ALTER DATABASE {name} OWNER TO plain; ALTER SCHEMA public OWNER TO plain"
    )
    yield url.replace("malote@", "plain@")
    postgres.drop_database(name)
    await _sql(postgres.url("postgres"), "DROP ROLE plain")


async def _sql(url: str, statements: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statements)
    await connection.close()


def _checkpoint(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for beside in ("-wal", "-shm"):
        file.with_name(file.name + beside).unlink(missing_ok=True)


async def _paused(service: Service) -> str | None:
    why = (await service.checks())["lane stock"]
    return why if service.lanes[0].paused else None


async def _one_by_one(broker: Broker, stock: Service, number: int) -> None:
    for total in range(before := await count(stock, Reservation), before + number):
        await broker.publish(an_order())
        await until(lambda total=total: _has(stock, total + 1), "the effect")


async def _has(stock: Service, number: int) -> bool:
    return await count(stock, Reservation) == number


async def _is_done_at_once(broker: Broker, stock: Service) -> None:
    """At its first attempt."""
    await until(lambda: count(stock, Reservation), "the effect")
    await until(lambda: is_ready(stock), "the service to be ready")
    assert "lane stock" not in stock.warnings(), "nothing was retried"
    assert await broker.depth("stock.dlq") == 0
