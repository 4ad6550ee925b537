"""Stock's handlers: given levels, when something happens to an order, then what."""

from collections.abc import AsyncIterator

import pytest
from uuid_utils.compat import uuid7

from contracts.orders import OrderCancelled, OrderConfirmed, OrderPlaced, RejectedLine
from contracts.stock import ReservedLine, StockLow, StockRejected, StockReleased, StockReserved, StockTaken
from services.stock import handlers
from services.stock.store import Product, Reservation
from shared.persistence.clock import moment
from shared.testing import Harness
from tests.running import an_order


@pytest.fixture
async def stock() -> AsyncIterator[Harness]:
    async with Harness(handlers, Product) as harness:
        yield harness


def a_product(sku: str, on_hand: int, low_threshold: int = 0) -> Product:
    return Product(sku=sku, name=sku, price=100, currency="BRL", low_threshold=low_threshold, on_hand=on_hand)


def confirmed(order: OrderPlaced) -> OrderConfirmed:
    return OrderConfirmed(**order.model_dump(), confirmed_at=order.placed_at)


def cancelled(order: OrderPlaced) -> OrderCancelled:
    return OrderCancelled(**order.model_dump(), cancelled_at=order.placed_at, order_job_id="job")


def held(**pieces: int) -> tuple[ReservedLine, ...]:
    return tuple(ReservedLine(sku=sku, quantity=number) for sku, number in pieces.items())


async def level(stock: Harness, sku: str) -> tuple[int, int]:
    row = await stock.row(Product, sku)
    return row.on_hand, row.reserved


async def test_all_lines_of_an_order_are_reserved(stock: Harness) -> None:
    await stock.given(a_product("A", 5), a_product("B", 5))
    order = an_order([("A", 2), ("B", 5)])
    said = await stock.when(order)
    reserved_at = moment((await stock.row(Reservation, order.order_id)).reserved_at or 0)
    assert said == [StockReserved(order_id=order.order_id, lines=held(A=2, B=5), reserved_at=reserved_at)]
    assert (await level(stock, "A"), await level(stock, "B")) == ((5, 2), (5, 5))


async def test_an_order_for_more_than_is_left_is_rejected_and_reserves_nothing(stock: Harness) -> None:
    await stock.given(a_product("A", 5), a_product("B", 1))
    order = an_order([("A", 2), ("B", 2), ("C", 1)])
    blame = (RejectedLine(sku="B", quantity=2, available=1), RejectedLine(sku="C", quantity=1))
    assert await stock.when(order) == [StockRejected(order_id=order.order_id, rejected_lines=blame)]
    assert (await level(stock, "A"), await level(stock, "B")) == ((5, 0), (1, 0))


async def test_orders_of_one_batch_see_what_those_before_them_took(stock: Harness) -> None:
    await stock.given(a_product("A", 3))
    said = await stock.when(an_order([("A", 2)]), an_order([("A", 2)]), an_order([("A", 1)]))
    assert [type(message) for message in said] == [StockReserved, StockRejected, StockReserved]
    assert await level(stock, "A") == (3, 3)


async def test_a_confirmed_order_leaves_the_level(stock: Harness) -> None:
    await stock.given(a_product("A", 5))
    order = an_order([("A", 2)])
    await stock.when(order)
    said = await stock.when(confirmed(order), confirmed(order))
    taken_at = moment((await stock.row(Reservation, order.order_id)).taken_at or 0)
    assert said == [StockTaken(order_id=order.order_id, lines=held(A=2), taken_at=taken_at)]
    assert await level(stock, "A") == (3, 0)


@pytest.mark.parametrize("was_confirmed", [False, True])
async def test_a_cancelled_order_gives_all_of_it_back_once(stock: Harness, was_confirmed: bool) -> None:
    await stock.given(a_product("A", 5))
    order = an_order([("A", 2)])
    await stock.when(order)
    if was_confirmed:
        await stock.when(confirmed(order))
    said = await stock.when(cancelled(order), cancelled(order))
    released_at = moment((await stock.row(Reservation, order.order_id)).released_at or 0)
    assert said == [
        StockReleased(order_id=order.order_id, lines=held(A=2), was_taken=was_confirmed, released_at=released_at)
    ]
    assert await level(stock, "A") == (5, 0)


async def test_an_order_that_was_cancelled_before_it_came_reserves_nothing(stock: Harness) -> None:
    await stock.given(a_product("A", 5))
    order = an_order([("A", 2)])
    assert await stock.when(cancelled(order)) == []
    assert await stock.when(order) == []
    assert await level(stock, "A") == (5, 0)


async def test_a_confirmation_that_comes_after_the_cancellation_takes_nothing(stock: Harness) -> None:
    await stock.given(a_product("A", 5))
    order = an_order([("A", 2)])
    await stock.when(order, cancelled(order), confirmed(order))
    assert await level(stock, "A") == (5, 0)
    assert [row.state for row in await stock.rows(Reservation)] == ["RELEASED"]


async def test_running_low_is_said_once_for_each_fall(stock: Harness) -> None:
    await stock.given(a_product("A", 5, low_threshold=4))
    first, second, third = (an_order([("A", 1)]) for _ in range(3))
    assert [type(m) for m in await stock.when(first, second, third)].count(StockLow) == 1
    await stock.when(cancelled(first), cancelled(second), cancelled(third))
    again = await stock.when(an_order([("A", 2)]))
    assert again[1] == StockLow(sku="A", name="A", available=3, threshold=4)


async def test_an_unknown_order_id_is_nothing_to_confirm(stock: Harness) -> None:
    assert await stock.when(confirmed(an_order(order_id=uuid7()))) == []


async def test_what_was_never_reserved_has_no_times(stock: Harness) -> None:
    await stock.given(a_product("A", 1))
    refused, unknown = an_order([("A", 2)]), an_order([("A", 1)])
    await stock.when(refused, cancelled(refused), cancelled(unknown))
    rows = await stock.rows(Reservation)
    assert [(row.reserved_at, row.taken_at, row.released_at) for row in rows] == [(None, None, None)] * 2
