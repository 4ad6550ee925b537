"""The broker or the database goes and comes back: lanes pause and resume, and no message is blamed for it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

import aio_pika
import pytest
from fastapi import APIRouter
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.broker import queue_of
from contracts.orders import OrderPlaced
from contracts.stock import StockReserved
from deploy.local.rabbitmq import RabbitNode
from services.stock.store import Reservation
from shared.messaging import membership, topology
from shared.messaging.amqp import connections
from shared.messaging.handler import on
from shared.messaging.inbox import inbox
from shared.messaging.unit import UnitOfWork
from shared.persistence import database
from shared.persistence.database import Database
from shared.service import Service
from tests.integration.reserving import RESERVED, count, on_order_placed
from tests.integration.test_topology import vhost_of
from tests.migrated import migrate
from tests.postgres import PostgresCluster
from tests.running import LADDER, Broker, Spy, an_order, is_ready, module_of, reserved, running, settings_for, until
from tests.servers import manage


def gated(gate: asyncio.Event, tried: list[int]) -> ModuleType:
    """Stock that reserves once `gate` is open, and keeps the number of each attempt."""

    @on(OrderPlaced)
    async def on_order_placed(order: OrderPlaced, unit: UnitOfWork) -> StockReserved:
        assert unit.cause
        tried.append(unit.cause.attempt)
        await gate.wait()
        unit.add(Reservation(order_id=order.order_id, state="RESERVED", lines={}))
        return reserved(order.order_id)

    return module_of(on_order_placed)


async def test_the_broker_killed_under_load_comes_back_and_so_do_the_lanes(
    rabbit: RabbitNode, broker: Broker, tmp_path: Any
) -> None:
    gate, tried = asyncio.Event(), list[int]()
    handlers = gated(gate, tried)
    async with running("stock", broker.url, f"sqlite:///{tmp_path}/a.db", handlers, batch_limit=20) as stock:
        await asyncio.gather(*(broker.publish(an_order()) for _ in range(100)))
        await until(lambda: _is_true(tried), "a batch to begin")
        await asyncio.to_thread(rabbit.kill)
        gate.set()
        checks = await until(lambda: _broker_is_missed(stock), "the broker to be missed")
        assert checks["database"] is None
        assert checks["lane stock"]
        async with running_anyhow("stock", broker.url, f"sqlite:///{tmp_path}/a.db", handlers) as late:
            assert str((await late.checks())["broker"]).startswith("no connection")
            await asyncio.to_thread(rabbit.start)
            await until(lambda: is_ready(stock), "the lane to be back", 30)
            await until(lambda: is_ready(late), "one that was started meanwhile", 30)
            async with await aio_pika.connect(broker.url) as connection:
                again = Broker(broker.url, await connection.channel())
                spy = Spy(await again.channel.declare_queue(exclusive=True))
                await spy._queue.bind(*RESERVED)
                await again.publish(an_order())
                await spy.collect(1)
                await until(lambda: _reserved(101, stock), "all orders")
                assert await again.depth("stock.dlq") == 0
    assert set(tried) == {1}


async def test_one_connection_cut_under_load_costs_nothing(
    rabbit: RabbitNode, broker: Broker, database_url: str
) -> None:
    """The lane holds deliveries of the old channel and of the new one at once: none may be taken for another."""
    gate, tried = asyncio.Event(), list[int]()
    spy = await broker.spy(RESERVED)
    async with running("stock", broker.url, database_url, gated(gate, tried), batch_limit=10) as stock:
        for _ in range(60):
            await broker.publish(an_order())
        await until(lambda: _is_true(tried), "a batch to begin")
        await cut(rabbit, broker, "stock consuming")
        await until(lambda: _holds_new_ones(stock), "deliveries of the new channel")
        gate.set()
        await spy.collect(60)
        await until(lambda: is_ready(stock), "the lane to be back")
        await broker.publish(an_order())
        await spy.collect(61)
        assert await count(stock, Reservation) == 61
    assert await broker.depth("stock") == 0
    assert len(spy.seen) == 61
    assert set(tried) == {1}


async def test_a_publishing_connection_cut_again_and_again_loses_nothing(
    rabbit: RabbitNode, broker: Broker, database_url: str
) -> None:
    gate, tried = asyncio.Event(), list[int]()
    gate.set()
    spy = await broker.spy(RESERVED)
    async with running("stock", broker.url, database_url, gated(gate, tried), batch_limit=10) as stock:
        for round_ in range(1, 3):
            await asyncio.gather(*(broker.publish(an_order()) for _ in range(100)))
            await cut(rabbit, broker, "stock publishing")
            await until(lambda number=100 * round_: _reserved(number, stock), "all effects")
            await until(lambda: is_ready(stock), "the connection to be back")
        await until(lambda: _all_said(spy, 200), "all to be said")
    assert set(tried) == {1}


async def test_a_lane_whose_queue_was_deleted_goes_on_by_itself_once_it_is_declared_again(
    broker: Broker, database_url: str
) -> None:
    spy = await broker.spy(RESERVED)
    async with running("stock", broker.url, database_url, module_of(on_order_placed)) as stock:
        await broker.channel.queue_delete(queue_of("stock"))
        checks = await until(lambda: _lane_is_missed(stock), "the queue to be missed")
        assert checks["lane stock"] == "queue 'lane.stock' is not consumed"
        await topology.declare(broker.url, LADDER)
        await until(lambda: is_ready(stock), "the lane to be back")
        await broker.publish(an_order())
        await spy.collect(1)


async def test_postgresql_killed_under_load_comes_back_and_so_do_the_lanes(
    broker: Broker, postgres: PostgresCluster
) -> None:
    gate, tried = asyncio.Event(), list[int]()
    spy = await broker.spy(RESERVED)
    url = postgres.create_database("outage")
    async with running("stock", broker.url, url, gated(gate, tried), batch_limit=20) as stock:
        await asyncio.gather(*(broker.publish(an_order()) for _ in range(100)))
        await until(lambda: _is_true(tried), "a batch to begin")
        await asyncio.to_thread(postgres.kill)
        gate.set()
        checks = await until(lambda: _lane_is_paused(stock), "the lane to pause")
        assert checks["database"]
        assert checks["broker"] is None
        await asyncio.to_thread(postgres.start)
        await spy.collect(100)
        await until(lambda: is_ready(stock), "the service to be ready again")
        assert await count(stock, Reservation) == await count(stock, inbox) == 100
    assert await broker.depth("stock.dlq") == 0
    assert set(tried) == {1}
    assert len({order["order_id"] for order in await spy.collect(100)}) == 100
    postgres.drop_database("outage")


async def test_a_sqlite_file_that_another_program_holds_pauses_the_lane(
    broker: Broker, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOCKED_SECONDS", 0.1)
    gate, tried = asyncio.Event(), list[int]()
    gate.set()
    spy = await broker.spy(RESERVED)
    url = f"sqlite:///{tmp_path}/held.db"
    async with running("stock", broker.url, url, gated(gate, tried)) as stock:
        other = Database(url)
        async with other.transaction():
            await broker.publish(an_order())
            checks = await until(lambda: _lane_is_paused(stock), "the lane to pause")
            assert "locked" in str(checks["lane stock"])
            assert checks["broker"] is None
        await spy.collect(1)
        await until(lambda: is_ready(stock), "the service to be ready again")
        await other.dispose()
    assert set(tried) == {1}


@pytest.mark.parametrize("kind", ["lost answer", "failed"])
async def test_what_was_committed_is_published_though_the_commit_seemed_to_fail(
    broker: Broker, database_url: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks during COMMIT: nobody can know whether it happened, so the table is asked."""
    monkeypatch.setattr(membership, "HEARTBEAT_SECONDS", 0.1)
    gate, tried, broken = asyncio.Event(), list[int](), list[int]()
    gate.set()
    original = AsyncSession.commit

    async def commit(session: AsyncSession) -> None:
        if tried and not broken:
            broken.append(1)
            if kind == "lost answer":
                await original(session)
            raise OperationalError("COMMIT", {}, ConnectionError("the connection broke"))
        await original(session)

    spy = await broker.spy(RESERVED)
    async with running("stock", broker.url, database_url, gated(gate, tried)) as stock:
        monkeypatch.setattr(AsyncSession, "commit", commit)
        await broker.publish(an_order())
        await spy.collect(1)
        assert broken
        await broker.publish(an_order())
        await spy.collect(2)
        assert await count(stock, Reservation) == 2
    assert len(spy.seen) == 2


async def test_a_service_whose_broker_takes_connections_and_says_nothing_can_be_stopped(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "ATTEMPT_SECONDS", 0.5)
    met = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met.set()
        await reader.read()
        writer.close()

    gate = asyncio.Event()
    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    url = f"amqp://a:b@127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with asyncio.timeout(60):
        async with running_anyhow("stock", url, f"sqlite:///{tmp_path}/s.db", gated(gate, [])) as stock:
            await met.wait()
            assert str((await stock.checks())["broker"]).startswith("no connection")
    server.close()


# -- helpers -----------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def running_anyhow(
    name: str, amqp_url: str, database_url: str, handlers: ModuleType, **more: Any
) -> AsyncIterator[Service]:
    """A migrated service at work, ready or not."""
    await asyncio.to_thread(migrate, name, database_url)
    service = Service(settings_for(name, amqp_url, database_url, **more), handlers, APIRouter())
    async with service.running():
        yield service


async def cut(rabbit: RabbitNode, broker: Broker, connection_name: str) -> None:
    """Let the broker close a connection, as an operator does."""

    async def found() -> str | None:
        connections: Any = await asyncio.to_thread(manage, rabbit, "GET", f"/vhosts/{vhost_of(broker)}/connections")
        named = [c["name"] for c in connections if c["client_properties"].get("connection_name") == connection_name]
        return named[0] if named else None

    name = await until(found, f"the connection {connection_name!r}")
    await asyncio.to_thread(manage, rabbit, "DELETE", f"/connections/{name}")


async def _is_true(thing: object) -> bool:
    return bool(thing)


async def _broker_is_missed(service: Service) -> dict[str, str | None] | None:
    checks = await service.checks()
    return checks if checks["broker"] and checks["lane stock"] else None


async def _lane_is_paused(service: Service) -> dict[str, str | None] | None:
    checks = await service.checks()
    return checks if service.lanes[0].paused else None


async def _lane_is_missed(service: Service) -> dict[str, str | None]:
    checks = await service.checks()
    return checks if checks["lane stock"] else {}


async def _holds_new_ones(service: Service) -> bool:
    return any(raw.redelivered for raw in service.lanes[0].intake.waiting)


async def _reserved(number: int, *services: Service) -> bool:
    return sum([await count(service, Reservation) for service in services]) == number


async def _all_said(spy: Spy, number: int) -> bool:
    return len({order["order_id"] for order in await spy.collect(0)}) == number
