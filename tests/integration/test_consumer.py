"""Lanes on a real broker and both databases: once, in order, and nothing lost."""

from typing import Any

from sqlalchemy import func, select

from contracts.orders import OrderPlaced
from contracts.stock import StockReserved
from services.stock.store import Product, Reservation
from shared.consumer import on
from shared.inbox import inbox
from shared.outbox import outbox
from shared.retry import NotYet, Poison
from shared.service import Service
from shared.unit import Unit
from tests.running import Broker, an_order, module_of, running, until

RESERVED = ("stock", "stock.reserved.v1")


@on(OrderPlaced)
async def on_order_placed(order: OrderPlaced, unit: Unit) -> StockReserved:
    """Refuses what is called FAIL, and counts what is not."""
    for line in order.lines:
        if line.sku == "FAIL":
            raise RuntimeError("this order always fails")
        if line.sku == "POISON":
            raise Poison("nobody can reserve this")
        if line.sku == "LATER":
            raise NotYet("come back")
    unit.add(Reservation(order_id=order.order_id, state="RESERVED", lines={}))
    return StockReserved(order_id=order.order_id)


async def count(service: Service, table: Any) -> int:
    async with service.database.reading() as session:
        return await session.scalar(select(func.count()).select_from(table)) or 0


async def test_a_message_sent_three_times_at_once_and_later_has_one_effect(broker: Broker, database_url: str) -> None:
    spy = await broker.spy(RESERVED)
    async with running("stock", broker.url, database_url, module_of(on_order_placed)) as stock:
        order = an_order()
        for _ in range(3):
            await broker.publish(order, id_="the-same")
        await spy.collect(1)
        await broker.publish(order, id_="the-same")
        await broker.publish(an_order(), id_="another")
        assert len(await spy.collect(2)) == 2
        assert await count(stock, Reservation) == 2
        assert await count(stock, inbox) == 2
    assert len(spy.seen) == 2


async def test_one_that_always_fails_goes_up_the_ladder_and_its_neighbours_are_done_at_once(
    broker: Broker, database_url: str
) -> None:
    spy = await broker.spy(RESERVED)
    for number in range(100):
        await broker.publish(an_order([("FAIL" if number == 37 else "A", 1)]), id_=f"m{number}")
    async with running("stock", broker.url, database_url, module_of(on_order_placed)) as stock:
        await spy.collect(99)
        letter = await broker.take("stock.dlq")
        assert letter.message_id == "m37"
        assert letter.headers["failure_attempts"] == 3
        assert letter.headers["failure_exception"] == "RuntimeError"
        assert letter.headers["failure_message"] == "this order always fails"
        assert "on_order_placed" in str(letter.headers["failure_traceback"])
        assert letter.headers["failure_first_at"] < letter.headers["failure_last_at"]
        assert letter.headers["failure_service"] == "stock"
        assert OrderPlaced.read(letter.body).lines[0].sku == "FAIL"
        assert await count(stock, Reservation) == 99
        await until(lambda: _is_empty(stock), "the outbox to be empty")


async def _is_empty(service: Service) -> bool:
    return await count(service, outbox) == 0
