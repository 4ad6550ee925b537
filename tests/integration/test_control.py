"""Reports of processes and control messages to them, on the real broker with the users' own permissions."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from contracts.broker import CONTROL
from contracts.orders import OrderPlaced
from contracts.processes import Control, ProcessSeen
from contracts.stock import StockReserved
from shared.messaging import control, process
from shared.messaging.handler import on
from shared.messaging.pace import Pace
from shared.messaging.unit import UnitOfWork
from shared.service import Service
from tests.running import PASSWORDS, Broker, an_order, module_of, reserved, running, until
from tests.servers import ON_SQLITE

RESERVED = (StockReserved.exchange, StockReserved.key)
SEEN = (ProcessSeen.exchange, ProcessSeen.key)


@on(OrderPlaced)
async def on_order_placed(order: OrderPlaced, unit: UnitOfWork) -> StockReserved:
    if order.lines[0].sku == "SLOW":
        await asyncio.sleep(0.5)
    return reserved(order.order_id)


@contextlib.asynccontextmanager
async def stock(broker: Broker, database_url: str) -> AsyncIterator[Service]:
    """The stock service, connected as the broker user `stock`."""
    head, _, tail = broker.url.partition("://")
    url = f"{head}://stock:{PASSWORDS['stock']}@{tail.rpartition('@')[2]}"
    async with running("stock", url, database_url, module_of(on_order_placed)) as service:
        await until(lambda: listens(broker), "the process to listen")
        yield service


async def listens(broker: Broker) -> bool:
    spy = await broker.spy(SEEN)
    await tell(broker, do="ping")
    with contextlib.suppress(AssertionError):
        return bool(await spy.collect(1, seconds=0.5))
    return False


async def tell(broker: Broker, to: str = "all", **what: Any) -> None:
    await broker.send(Control(**what).model_dump_json().encode(), CONTROL, to)


@ON_SQLITE
async def test_a_ping_is_answered_under_its_id_with_what_the_lanes_have_done(
    guarded: Broker, database_url: str
) -> None:
    async with stock(guarded, database_url):
        spy, done = await guarded.spy(SEEN), await guarded.spy(RESERVED)
        for _ in range(3):
            await guarded.publish(an_order())
        await done.collect(3)
        for to in ("all", "stock", process.ID):
            await tell(guarded, to, do="ping", ping_id=f"to {to}")
        await until(lambda: _answered(spy, {"to all", "to stock", f"to {process.ID}"}), "the answers")
        said = ProcessSeen.read(next(m.body for m in spy.seen if m.correlation_id == "to stock"))
    assert (said.service, said.process_id) == ("stock", process.ID)
    [lane] = said.lanes
    assert (lane.name, lane.done, lane.failed, lane.paused, lane.rate) == ("stock", 3, 0, None, None)
    assert said.memory_bytes > 10_000_000
    assert said.cpu_seconds > 0


async def _answered(spy: Any, ids: set[str]) -> bool:
    await spy.collect(0)
    return ids <= {message.correlation_id for message in spy.seen}


@ON_SQLITE
async def test_a_process_reports_itself_periodically(
    guarded: Broker, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.service.SEEN_SECONDS", 0.1)
    async with stock(guarded, database_url):
        spy = await guarded.spy(SEEN)
        await spy.collect(3)


@ON_SQLITE
async def test_a_paused_lane_finishes_what_it_has_takes_nothing_and_goes_on(guarded: Broker, database_url: str) -> None:
    async with stock(guarded, database_url) as service:
        [lane] = service.lanes
        done = await guarded.spy(RESERVED)
        await guarded.publish(an_order([("SLOW", 1)]))
        await until(lambda: _is(bool(lane.intake.unanswered())), "the slow one to be taken")
        await tell(guarded, do="pause", lane="stock")
        await done.collect(1)
        await until(lambda: _is(lane.held is not None), "the pause")
        await guarded.publish(an_order())
        await until(lambda: _depth(guarded, 1), "the next to be left in the queue")
        assert service.warnings()["lane stock"] == control.BY_AN_OPERATOR
        assert not any((await service.checks()).values()), "it is ready: it does what it was told"
        await tell(guarded, do="resume", lane="another lane")
        await tell(guarded, do="resume", lane="stock")
        await done.collect(2)
        assert "lane stock" not in service.warnings()


@ON_SQLITE
async def test_a_quiet_process_stays_quiet_when_the_broker_comes_back(guarded: Broker, database_url: str) -> None:
    async with stock(guarded, database_url) as service:
        [lane] = service.lanes
        await tell(guarded, "stock", do="quiet")
        await until(lambda: _is(lane.held is not None), "quiet")
        connection = service._subscriptions[0]._connection
        assert connection
        await connection.transport.connection.close()  # type: ignore[union-attr]
        await guarded.publish(an_order())
        await until(lambda: _ready(service), "the connection to be back")
        assert not lane.intake.unanswered()
        assert await guarded.depth("stock") == 1
        done = await guarded.spy(RESERVED)
        await tell(guarded, process.ID, do="resume")
        await done.collect(1)


@ON_SQLITE
async def test_a_lane_with_a_rate_begins_no_more_than_that(guarded: Broker, database_url: str) -> None:
    async with stock(guarded, database_url) as service:
        [lane] = service.lanes
        await tell(guarded, do="rate", lane="stock", rate=20)
        await until(lambda: _is(lane.pace.rate == 20), "the rate")
        done = await guarded.spy(RESERVED)
        began = time.monotonic()
        for _ in range(50):
            await guarded.publish(an_order())
        await done.collect(50)
        assert time.monotonic() - began >= (50 - 20) / 20, "one second's worth at once, the others in their turn"
        assert "at most 20 messages a second" in service.warnings()["lane stock"]
        await tell(guarded, do="rate", lane="stock")
        await until(lambda: _is(lane.pace.rate is None), "the end of the limit")


@ON_SQLITE
async def test_a_process_that_is_told_to_stop_ends_as_by_a_signal(guarded: Broker, database_url: str) -> None:
    told: list[str] = []
    async with stock(guarded, database_url) as service:
        service.controlled._stop = lambda: told.append("stop")
        await tell(guarded, "stock", do="stop")
        await until(lambda: _is(bool(told)), "the stop")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"do": "format"}', b'{"do": "pause", "rate": 1}', b"x" * 99_999])
async def test_what_is_not_understood_changes_nothing(guarded: Broker, tmp_path: Any, body: bytes) -> None:
    async with stock(guarded, f"sqlite:///{tmp_path}/s.db") as service:
        await guarded.send(body, CONTROL, "all")
        spy = await guarded.spy(SEEN)
        await tell(guarded, do="ping", ping_id="after it")
        await until(lambda: _answered(spy, {"after it"}), "an answer")
        assert service.lanes[0].held is None


@ON_SQLITE
async def test_a_lane_goes_on_that_was_paused_and_resumed_while_the_broker_was_away(
    guarded: Broker, database_url: str
) -> None:
    async with stock(guarded, database_url) as service:
        [subscription] = service._subscriptions
        connection = service._subscriptions[0]._connection
        assert connection
        await connection.transport.connection.close()  # type: ignore[union-attr]
        for held in ("away", None):
            subscription.consumer.held = held
            with contextlib.suppress(Exception):
                await subscription.reconcile()
        await until(lambda: _ready(service), "the lane to be consumed again")
        done = await guarded.spy(RESERVED)
        await guarded.publish(an_order())
        await done.collect(1)


async def test_a_rate_after_much_work_holds_up_nobody() -> None:
    pace = Pace()
    pace.begun(100_000)
    pace.rate = 50
    assert await asyncio.wait_for(pace.room(7), 5) >= 1


async def test_a_stopped_pace_waits_for_nobody() -> None:
    pace = Pace()
    pace.rate = 0.001
    waiting = asyncio.create_task(pace.room(7))
    await asyncio.sleep(0)
    pace.stopping = True
    assert await asyncio.wait_for(waiting, 5) == 7


def test_the_id_of_a_process_is_a_routing_key_of_one_process() -> None:
    assert not {"*", "#"} & set(process.ID)
    assert json.dumps(process.ID).isascii()


async def _is(value: bool) -> bool:
    return value


async def _depth(broker: Broker, number: int) -> bool:
    return await broker.depth("stock") == number


async def _ready(service: Service) -> bool:
    return not any((await service.checks()).values())
