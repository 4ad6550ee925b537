"""Several processes after the same pieces."""

import asyncio
import os
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select
from uuid_utils.compat import uuid7

from contracts.base import Money
from contracts.orders import Customer, OrderCancelled, OrderLine, PlaceOrder
from contracts.stock import ProductPriced
from services.orders.store import ListPrice, Order
from services.stock.store import Product, Reservation
from shared.persistence.database import Database, load
from shared.service import Service
from tests import forking
from tests.integration.reserving import count
from tests.migrated import migrate
from tests.postgres import PostgresCluster
from tests.running import SECRET, Broker, an_order, running, until


def a_product(sku: str, on_hand: int) -> Product:
    return Product(sku=sku, name=sku, price=100, currency="BRL", low_threshold=0, on_hand=on_hand)


def a_wish() -> PlaceOrder:
    return PlaceOrder(
        order_id=uuid7(),
        customer=Customer(id="ana", name="Ana", email="ana@example.com"),
        currency="BRL",
        lines=(OrderLine(sku="A", quantity=1),),
    )


async def test_twenty_orders_for_the_last_ten_pieces_over_two_stock_processes_confirm_ten(
    broker: Broker, database_url: str, tmp_path: Any
) -> None:
    async with (
        running("orders", broker.url, f"sqlite:///{tmp_path}/orders.db") as orders,
        running("stock", broker.url, database_url, batch_limit=1) as stock,
        running("stock", broker.url, database_url, batch_limit=1) as other,
    ):
        async with stock.database.transaction() as session:
            session.add(a_product("A", 10))
        price = Money(amount=100, currency="BRL")
        await broker.publish(ProductPriced(sku="A", name="A", price=price, revision=1, priced_at=datetime.now(UTC)))
        await until(lambda: count(orders, ListPrice), "the price list")
        outcome = await broker.spy(("orders", "order.confirmed.v1"), ("orders", "order.rejected.v1"))
        await asyncio.gather(*(broker.publish(a_wish()) for _ in range(20)))
        await outcome.collect(20)
        by_key = Counter(message.routing_key for message in outcome.seen)
        assert by_key == {"order.confirmed.v1": 10, "order.rejected.v1": 10}
        await until(lambda: _nothing_reserved(other), "all confirmed pieces to be taken")
        async with other.database.reading() as session:
            product = await session.get(Product, "A")
        assert product
        assert (product.on_hand, product.reserved) == (0, 0)
        assert await _states(orders, Order.state) == {"CONFIRMED": 10, "REJECTED": 10}
        assert await _states(stock, Reservation.state) == {"TAKEN": 10, "REFUSED": 10}


async def test_orders_with_the_same_products_in_other_orders_never_wait_for_each_other_crosswise(
    broker: Broker, database_url: str
) -> None:
    skus = [f"S{number}" for number in range(6)]
    async with (
        running("stock", broker.url, database_url, batch_limit=3) as stock,
        running("stock", broker.url, database_url, batch_limit=3),
    ):
        async with stock.database.transaction() as session:
            session.add_all(a_product(sku, 1000) for sku in skus)
        said = await broker.spy(("stock", "#"))
        wishes = [an_order([(sku, 1) for sku in (skus if n % 2 else skus[::-1])]) for n in range(60)]
        await asyncio.gather(*(broker.publish(wish) for wish in wishes))
        await said.collect(60)
        assert {message.routing_key for message in said.seen} == {"stock.reserved.v1"}
        async with stock.database.reading() as session:
            levels = (await session.scalars(select(Product))).all()
        assert {level.reserved for level in levels} == {60}
    assert await broker.depth("stock.dlq") == 0


async def test_a_cancellation_that_races_with_its_order_leaves_nothing_reserved(
    broker: Broker, database_url: str
) -> None:
    async with (
        running("stock", broker.url, database_url, batch_limit=1) as stock,
        running("stock", broker.url, database_url, batch_limit=1),
    ):
        async with stock.database.transaction() as session:
            session.add(a_product("A", 1000))
        placed = [an_order([("A", 2)]) for _ in range(20)]
        ends = [_cancelled(order) for order in placed]
        await asyncio.gather(*(broker.publish(message) for pair in zip(placed, ends, strict=True) for message in pair))
        await until(lambda: _all_released(stock, 20), "all to be released")
        assert await _nothing_reserved(stock)
    assert await broker.depth("stock") == 0
    assert await broker.depth("stock.dlq") == 0


def _cancelled(order: Any) -> OrderCancelled:
    return OrderCancelled(**order.model_dump(), cancelled_at=datetime.now(UTC), order_job_id="job")


async def _nothing_reserved(stock: Service) -> bool:
    async with stock.database.reading() as session:
        product = await session.get(Product, "A")
    return bool(product and product.reserved == 0)


async def _all_released(stock: Service, number: int) -> bool:
    return await _states(stock, Reservation.state) == {"RELEASED": number}


async def _states(service: Service, column: Any) -> dict[str, int]:
    async with service.database.reading() as session:
        rows = await session.execute(select(column, func.count()).group_by(column))
        return dict(rows.all())  # type: ignore[arg-type]


async def test_a_row_that_is_locked_is_read_anew(postgres: PostgresCluster) -> None:
    """What a session loaded before without a lock may have been changed by another process since."""
    url = postgres.create_database("anew")
    await asyncio.to_thread(migrate, "orders", url)
    database = Database(url)
    order = Order(
        id=uuid7(), state="PLACED", job_id="j", customer_id="ana", customer={}, currency="BRL", lines=[], placed_at=1
    )
    order_id = order.id
    async with database.transaction() as session:
        session.add(order)
    async with database.transaction() as session:
        seen = await load(session, Order, [order_id])
        async with database.transaction() as other:
            (await load(other, Order, [order_id], lock=True))[0].state = "CANCELLED"
        locked = await load(session, Order, [order_id], lock=True)
        assert seen[0] is locked[0]
        assert locked[0].state == "CANCELLED"
    await database.dispose()
    postgres.drop_database("anew")


async def test_four_migrations_at_once_make_one_database(database_url: str) -> None:
    env = {**os.environ, "GATEWAY_DATABASE_URL": database_url, "MALOTE_JWT_SECRET": SECRET}
    processes = [forking.start("shared.migrations", "gateway", env=env) for _ in range(4)]
    assert [await asyncio.to_thread(process.wait, 60) for process in processes] == [0, 0, 0, 0]
