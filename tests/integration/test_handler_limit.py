"""A handler that does not come back: its attempt ends, its lane goes on, and somebody is told."""

import asyncio
import contextlib
import sqlite3
import time
from typing import Any

from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from contracts.email import DeliverMail
from contracts.orders import OrderPlaced
from contracts.stock import StockReserved
from shared.messaging.handler import on
from shared.messaging.unit import UnitOfWork
from tests.integration.reserving import RESERVED
from tests.running import Broker, an_order, module_of, reserved, running, until
from tests.servers import ON_SQLITE


@on(OrderPlaced)
async def on_order_placed(order: OrderPlaced, unit: UnitOfWork) -> StockReserved:
    if order.lines[0].sku == "HANGS":
        await asyncio.sleep(3600)
    return reserved(order.order_id)


@on(DeliverMail, concurrency=4)
async def on_deliver_mail(command: DeliverMail, unit: UnitOfWork) -> None:
    await asyncio.sleep(3600)


@ON_SQLITE
async def test_a_handler_that_hangs_fails_in_time_and_its_neighbours_are_done(
    broker: Broker, database_url: str
) -> None:
    spy = await broker.spy(RESERVED)
    for number in range(20):
        await broker.publish(an_order([("HANGS" if number == 7 else "A", 1)]), id_=f"m{number}")
    limits = {"handler_limit": ("500ms",)}
    async with running("stock", broker.url, database_url, module_of(on_order_placed), **limits):
        await spy.collect(19)
        letter = await broker.take("stock.dlq")
        assert letter.message_id == "m7"
        assert letter.headers["failure_message"] == "its handler took longer than 0.5 s"
        assert letter.headers["failure_attempts"] == 3
    assert await broker.depth("stock") == 0
    assert await broker.depth("stock.dlq") == 0


async def test_work_outside_the_database_that_hangs_fails_by_the_limit_of_its_own_lane(
    broker: Broker, tmp_path: Any
) -> None:
    limits = {"handler_limit": ("20m", "email.outgoing=200ms")}
    url = f"sqlite:///{tmp_path}/e.db"
    async with running("email", broker.url, url, module_of(on_deliver_mail), **limits):
        await broker.publish(DeliverMail(mail_id=uuid7()), id_="hangs")
        letter = await broker.take("email.outgoing.dlq")
        assert letter.headers["failure_message"] == "its handler took longer than 0.2 s"


async def test_a_database_that_is_away_for_longer_than_a_handler_may_take_costs_no_attempt(
    broker: Broker, tmp_path: Any
) -> None:
    """Work outside asks the database just before it is done, and that question waits the outage out."""
    tried, gate = list[int](), asyncio.Event()

    @on(DeliverMail, concurrency=4)
    async def on_deliver_mail(command: DeliverMail, unit: UnitOfWork) -> None:
        assert unit.cause
        tried.append(unit.cause.attempt)
        await gate.wait()
        await unit.demand_ours()

    url, limits = f"sqlite:///{tmp_path}/e.db", {"handler_limit": ("20m", "email.outgoing=500ms")}
    async with running("email", broker.url, url, module_of(on_deliver_mail), **limits) as email:
        lane = next(lane for lane in email.lanes if lane.name == "email.outgoing")

        async def is_left() -> bool:
            return not lane.intake.unanswered()

        await broker.publish(DeliverMail(mail_id=uuid7()))
        await until(lambda: _is_true(tried), "the handler to begin")
        with contextlib.closing(sqlite3.connect(f"{tmp_path}/e.db", isolation_level=None, timeout=60)) as other:
            other.execute("ALTER TABLE attempts RENAME TO away")
            gate.set()
            await until(lambda: _is_true(lane.paused), "the lane to pause")
            began = time.monotonic()
            await until(lambda: _is_true(time.monotonic() > began + 1), "its time to be over")
            other.execute("ALTER TABLE away RENAME TO attempts")
        await until(lambda: _is_true(len(tried) > 1), "the mail to be tried again")
        await until(is_left, "the mail to be done")
    assert set(tried) == {1}


async def test_a_lane_whose_oldest_message_is_in_hand_for_long_is_named_with_it(broker: Broker, tmp_path: Any) -> None:
    handlers, url = module_of(on_order_placed), f"sqlite:///{tmp_path}/s.db"
    with capture_logs() as lines:
        async with running("stock", broker.url, url, handlers, handler_limit=("4s",), grace_seconds=0.01) as stock:
            await broker.publish(an_order([("HANGS", 1)]), id_="m1")

            async def warned() -> str | None:
                return stock.warnings().get("lane stock")

            warning = str(await until(warned, "a warning"))
            assert warning.startswith("order.placed.v1 m1 has been in hand for ")
            assert not any((await stock.checks()).values()), "it is ready all the same"
            await until(lambda: _said(lines), "a log line")
            await until(lambda: _is_well(stock), "the message to be tried again and the warning to end", 30)


async def _is_true(thing: object) -> bool:
    return bool(thing)


async def _said(lines: Any) -> bool:
    return any(line["event"] == "lane: a message is in hand for long" and line["lane"] == "stock" for line in lines)


async def _is_well(service: Any) -> bool:
    return "in hand" not in service.warnings().get("lane stock", "")
