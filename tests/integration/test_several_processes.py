"""Services that run several times: nothing is said twice, everybody gets to write and sees what others did."""

import asyncio
import contextlib
import random
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import text

from contracts.orders import OrderCancelled, OrderPlaced
from contracts.reports import ExportStopped, RemoveReportFiles
from services.reports.periodic import expire
from services.reports.store.reports import load_ending
from shared.persistence.database import Database
from shared.service import Service
from tests.deadlettering import shop_on
from tests.integration.reporting import a_report
from tests.integration.test_gateway_jobs import confirmation, ended, events, placed, say
from tests.integration.test_races import a_product
from tests.migrated import migrate
from tests.running import Broker, an_order, running, until
from tests.serving import serving, token
from tests.several import Process, listen, processes

SKUS = [f"S{number}" for number in range(8)]


async def test_four_processes_that_come_and_go_under_load_say_everything_once(
    broker: Broker, database_url: str, tmp_path: Path
) -> None:
    """Orders and their cancellations, of the same few products, in any order: nobody waits for another crosswise."""
    async with processes(broker.url, tmp_path) as started:
        stocks = await started.add("stock", database_url, 3)
        database = Database(database_url)
        async with database.transaction() as session:
            session.add_all(a_product(sku, 1_000_000) for sku in SKUS)
        ear = await listen(broker, "stock")
        is_over = asyncio.Event()
        placing = asyncio.create_task(_place_and_cancel(broker, is_over))
        await asyncio.gather(stocks[0].restart(), started.add("stock", database_url))
        await stocks[1].stop()
        is_over.set()
        number = await placing
        await until(
            lambda: _is(database, "SELECT count(*) FROM reservations WHERE state = 'RELEASED'", number), "all", 60
        )
        await until(lambda: _is(database, "SELECT count(*) FROM outbox", 0), "the outbox to be empty")
        await ear.hears(ear.keys["stock.reserved.v1"], "stock.released.v1")
        assert not ear.twice
        assert await _ask(database, "SELECT sum(reserved) FROM products") == 0
        assert await broker.depth("stock.dlq") == 0
        if not database.is_sqlite:
            deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
            assert await _ask(database, deadlocks) == 0
        assert "adopted" not in started.log(), "a living process was taken for dead, or one that ended left something"
        await database.dispose()


async def _place_and_cancel(broker: Broker, is_over: asyncio.Event) -> int:
    """Orders and their cancellations as fast as they are taken, until it is over; how many."""
    number = 0
    while not is_over.is_set():
        await until(lambda: _has_room(broker), "the lane to get on")
        number += 50
        orders = [an_order([(sku, 1) for sku in random.sample(SKUS, 4)]) for _ in range(50)]
        messages: list[OrderPlaced | OrderCancelled] = [*orders, *map(_cancelled, orders)]
        random.shuffle(messages)
        await asyncio.gather(*(broker.publish(message) for message in messages))
    return number


async def _has_room(broker: Broker) -> bool:
    return await broker.depth("stock") < 100


def _cancelled(order: OrderPlaced) -> OrderCancelled:
    return OrderCancelled(**order.model_dump(), cancelled_at=datetime.now(UTC), order_job_id="job")


async def test_whoever_wants_to_write_gets_a_turn_beside_a_process_that_writes_all_the_time(tmp_path: Path) -> None:
    """SQLite has one writer. Left to its own waiting, it would find the gap of 10 ms once in many turns."""
    path = tmp_path / "busy.db"
    database = Database(f"sqlite:///{path}")
    async with database.transaction() as session:
        await session.execute(text("CREATE TABLE t (n)"))
    turns, is_over = [0], threading.Event()
    writing = threading.Thread(target=_write_all_the_time, args=(path, turns, is_over))
    writing.start()
    passed = []
    try:
        for _ in range(10):
            await until(lambda after=turns[0]: _more_than(turns, after), "the other's next turn")  # type: ignore[misc]
            before = turns[0]
            async with database.transaction():
                passed.append(turns[0] - before)
    finally:
        is_over.set()
        await asyncio.to_thread(writing.join)
        await database.dispose()
    assert max(passed) < 10, passed


def _write_all_the_time(path: Path, turns: list[int], is_over: threading.Event) -> None:
    connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    while not is_over.is_set():
        connection.execute("BEGIN IMMEDIATE")
        turns[0] += 1
        time.sleep(0.06)
        connection.execute("COMMIT")
        time.sleep(0.01)
    connection.close()


async def _more_than(turns: list[int], after: int) -> bool:
    return turns[0] > after


# -- two gateways -----------------------------------------------------------------------------------------------------


async def test_who_waits_or_listens_at_one_gateway_soon_sees_what_another_consumed(
    broker: Broker, database_url: str, tmp_path: Path
) -> None:
    async with processes(broker.url, tmp_path) as started:
        gateways = await started.add("gateway", database_url, 2)
        async with ana(gateways[0]) as here, ana(gateways[1]) as there:
            lags = [await _lag(broker, here, there) for _ in range(7)]
    print(f"seen at the other gateway after {sorted(round(lag * 1000) for lag in lags)} ms")
    assert sorted(lags)[len(lags) // 2] < 0.5


def ana(gateway: Process) -> httpx.AsyncClient:
    login = {"Authorization": f"Bearer {token('ana')}"}
    return httpx.AsyncClient(base_url=gateway.url, headers=login, timeout=40, trust_env=False)


async def _lag(broker: Broker, here: httpx.AsyncClient, there: httpx.AsyncClient) -> float:
    """Seconds from the moment that one gateway told a job's end, to that when all have told it."""
    job = await placed(here)
    listening = [events(client, job) for client in (here, there)]
    for stream in listening:
        await anext(stream)
    looking = [*(_seen(stream) for stream in listening), *(_ended(client, job) for client in (here, there))]
    seen = asyncio.gather(*looking)
    await say(broker, confirmation(job), job)
    moments = await seen
    return max(moments) - min(moments)


async def _seen(stream: AsyncIterator[dict[str, str]]) -> float:
    async for happened in stream:
        if happened["event"] == "state" and '"SUCCESS"' in happened["data"]:
            return time.monotonic()
    raise AssertionError("the stream has ended")


async def _ended(client: httpx.AsyncClient, job: dict[str, Any]) -> float:
    await ended(client, job)
    return time.monotonic()


# -- work by the clock ------------------------------------------------------------------------------------------------


async def test_a_replay_by_two_processes_sends_each_letter_once(
    broker: Broker, database_url: str, tmp_path: Path
) -> None:
    number = 60
    async with (
        shop_on(broker, database_url, tmp_path) as shop,
        serving("deadletters", broker.url, database_url),
        serving("deadletters", broker.url, database_url),
    ):
        await shop.fails(*["A"] * number)
        shop.stock.broken.clear()
        ear = await listen(broker, "retry.100ms")
        job = await shop.do("replay", all=True, rate=200)
        assert (job["status"], job["result"]["sent"], job["result"]["done"]) == ("SUCCESS", number, number)
        assert len(ear.heard) == number
        assert not ear.twice
        assert await shop.reservations() == number
        await shop.do("purge", filter={"state": "DONE"})


async def test_reports_that_are_overdue_are_removed_once_by_three_processes(
    broker: Broker, database_url: str, tmp_path: Path
) -> None:
    number = 250
    async with contextlib.AsyncExitStack() as stack:
        reports = [await stack.enter_async_context(running("reports", broker.url, database_url)) for _ in range(3)]
        ear = await listen(broker, "commands")
        async with reports[0].database.transaction() as session:
            session.add_all(a_report(expires_at=1) for _ in range(number))
        assert sum(await asyncio.gather(*map(_expire_all, reports))) == number
        await ear.hears(number, RemoveReportFiles.key)
        assert not ear.twice


async def _expire_all(service: Service) -> int:
    ended = 0
    while some := await expire(service.outbox):
        ended += some
    return ended


async def test_two_reports_that_end_at_once_do_not_both_take_the_room_for_one(database_url: str) -> None:
    await asyncio.to_thread(migrate, "reports", database_url)
    database = Database(database_url)
    made = [a_report(status="RUNNING", bytes=None) for _ in range(2)]
    [first, second] = [ExportStopped(report_id=report.id, reason="r", detail="d") for report in made]
    async with database.transaction() as session:
        session.add_all(made)

    async def ready_beside_the_second() -> int:
        async with database.transaction() as session:
            return [report.status for report in await load_ending(session, [second])].count("READY")  # type: ignore[attr-defined]

    async with database.transaction() as session:
        [found] = await load_ending(session, [first])
        meanwhile = asyncio.create_task(ready_beside_the_second())
        await asyncio.wait({meanwhile}, timeout=0.5)
        found.status = "READY"  # type: ignore[attr-defined]
    assert await meanwhile == 1
    await database.dispose()


async def _ask(database: Database, question: str) -> Any:
    async with database.reading() as session:
        return await session.scalar(text(question))


async def _is(database: Database, question: str, answer: int) -> bool:
    return bool(await _ask(database, question) == answer)
