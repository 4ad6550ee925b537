"""Orders' handlers: what its events say of an order."""

from collections.abc import AsyncIterator

import pytest
from uuid_utils.compat import uuid7

from contracts.base import Message, Money
from contracts.orders import (
    CancelOrder,
    Customer,
    OrderCancelled,
    OrderConfirmed,
    OrderedLine,
    OrderLine,
    OrderPlaced,
    OrderRejected,
    PlaceOrder,
    RejectedLine,
)
from contracts.stock import StockRejected
from services.orders import handlers
from services.orders.store import ListPrice, Order
from shared.persistence.clock import moment
from shared.testing import Harness
from tests.running import reserved

WISH = PlaceOrder(
    order_id=uuid7(),
    customer=Customer(id="ana", name="Ana", email="ana@example.com"),
    currency="BRL",
    lines=(OrderLine(sku="A", quantity=1), OrderLine(sku="A", quantity=2)),
)
BLAME = (RejectedLine(sku="A", quantity=3, available=1),)


@pytest.fixture
async def orders() -> AsyncIterator[Harness]:
    async with Harness(handlers, Order) as harness:
        yield harness


def core(event: Message) -> dict[str, object]:
    """What never changes in an order, as an event says it."""
    return event.model_dump(mode="json", include={"order_id", "customer", "lines", "total", "placed_at"})


async def test_every_event_of_an_order_says_all_that_never_changes_in_it(orders: Harness) -> None:
    await orders.given(ListPrice(sku="A", name="Coffee", amount=100, currency="BRL", revision=1))
    [placed] = await orders.when(WISH)
    [confirmed] = await orders.when(reserved(WISH.order_id))
    [cancelled] = await orders.when(CancelOrder(order_id=WISH.order_id))
    assert [type(event) for event in (placed, confirmed, cancelled)] == [OrderPlaced, OrderConfirmed, OrderCancelled]
    assert core(placed) == core(confirmed) == core(cancelled)
    placed_at = moment((await orders.row(Order, WISH.order_id)).placed_at)
    assert isinstance(placed, OrderPlaced)
    assert (placed.placed_at, placed.total) == (placed_at, Money(amount=300, currency="BRL"))


async def test_an_order_that_is_rejected_for_want_of_stock_says_its_prices(orders: Harness) -> None:
    await orders.given(ListPrice(sku="A", name="Coffee", amount=100, currency="BRL", revision=1))
    [placed] = await orders.when(WISH)
    [rejected] = await orders.when(StockRejected(order_id=WISH.order_id, rejected_lines=BLAME))
    assert isinstance(rejected, OrderRejected)
    assert core(rejected) == core(placed)
    assert (rejected.reason, rejected.currency, rejected.rejected_lines) == ("out_of_stock", "BRL", BLAME)


async def test_an_order_that_cannot_be_priced_says_its_lines_without_prices(orders: Harness) -> None:
    [rejected] = await orders.when(WISH)
    assert isinstance(rejected, OrderRejected)
    assert (rejected.reason, rejected.currency, rejected.total) == ("unknown_sku", "BRL", None)
    assert rejected.lines == (OrderedLine(sku="A", quantity=3),)
    assert rejected.placed_at <= rejected.rejected_at
