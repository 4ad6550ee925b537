"""How the next version of a message comes into a running system: beside the old one, and nobody notices."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import aio_pika
import pytest

from contracts.base import Contract, Event
from contracts.broker import routes_to
from contracts.flow import BY_KEY, FLOW, Route
from contracts.orders import OrderPlaced, PlaceOrder
from shared.messaging import topology
from shared.messaging.handler import on
from shared.messaging.unit import UnitOfWork
from tests.running import LADDER, Broker, an_order, module_of, running, to_place, until


class Place(Contract):
    """Where a customer is."""

    country: str


class OrderPlacedV2(Event):
    """As `order.placed.v1`, but for the customer, who is an id now, and the field that would break its readers."""

    exchange: ClassVar[str] = "orders"
    key: ClassVar[str] = "order.placed.v2"

    order_id: UUID
    customer: str
    place: Place


@on(PlaceOrder)
async def as_it_was(command: PlaceOrder, unit: UnitOfWork) -> OrderPlaced:
    """Orders before the change."""
    return an_order(order_id=command.order_id)


@on(PlaceOrder)
async def both(command: PlaceOrder, unit: UnitOfWork) -> list[OrderPlaced | OrderPlacedV2]:
    """Orders after it: the same fact in both versions, in one commit."""
    new = OrderPlacedV2(order_id=command.order_id, customer=command.customer.id, place=Place(country="BR"))
    return [an_order(order_id=command.order_id), new]


@pytest.fixture(autouse=True)
def _routes_as_they_are() -> Iterator[None]:
    yield
    routes_to.cache_clear()


async def test_a_second_version_is_introduced_while_consumers_of_the_first_go_on(
    vhost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[UUID]] = {"v1": [], "v2": []}

    @on(OrderPlaced)
    async def on_order_placed(order: OrderPlaced, unit: UnitOfWork) -> None:
        seen["v1"].append(order.order_id)

    @on(OrderPlacedV2)
    async def on_order_placed_v2(order: OrderPlacedV2, unit: UnitOfWork) -> None:
        seen["v2"].append(order.order_id)

    def database(name: str) -> str:
        return f"sqlite:///{tmp_path}/{name}.db"

    flow: dict[Any, Any] = FLOW
    monkeypatch.setitem(flow, OrderPlaced, Route(("orders",), ("stock",)))
    await topology.declare(vhost, LADDER)
    async with (
        await aio_pika.connect(vhost) as connection,
        running("stock", vhost, database("stock"), module_of(on_order_placed)),
    ):
        broker = Broker(vhost, await connection.channel())
        async with running("orders", vhost, database("orders"), module_of(as_it_was)):
            before = [await _place(broker) for _ in range(5)]
            await until(lambda: _has(seen["v1"], before), "v1 of all orders")

        monkeypatch.setitem(flow, OrderPlacedV2, Route(("orders",), ("email",)))
        monkeypatch.setitem(BY_KEY, OrderPlacedV2.key, OrderPlacedV2)
        routes_to.cache_clear()  # another test may have asked for the lane's before
        await topology.declare(vhost, LADDER)
        async with (
            running("email", vhost, database("email"), module_of(on_order_placed_v2)),
            running("orders", vhost, database("orders"), module_of(both)),
        ):
            after = [await _place(broker) for _ in range(5)]
            await until(lambda: _has(seen["v1"], [*before, *after]), "v1 of all orders")
            await until(lambda: _has(seen["v2"], after), "v2 of the orders since")
        assert seen == {"v1": [*before, *after], "v2": after}, "each once, in order, and its own only"
        assert [await broker.depth(f"{lane}.dlq") for lane in ("orders", "stock", "email")] == [0, 0, 0]


async def _place(broker: Broker) -> UUID:
    wish = to_place()
    await broker.publish(wish)
    return wish.order_id


async def _has(seen: list[UUID], wanted: list[UUID]) -> bool:
    return set(wanted) <= set(seen)
