"""One stock process: messages a second with full guarantees, beside itself one by one, and beside plain aio-pika."""

import asyncio
import random
import secrets
import time

import aio_pika
from sqlalchemy import func, select
from uuid_utils.compat import uuid7

from contracts.base import Money
from contracts.orders import Customer, OrderPlaced, PricedLine
from services.stock.store import Product, Reservation
from shared import topology
from shared.database import Database, migrate
from tests.bench.common import SECRET, Figure, Machines, beside, process, wait_for

MESSAGES = 20_000
ONE_BY_ONE = 1_500
PRODUCTS = 50


def measure(machines: Machines, scale: float) -> list[Figure]:
    many, few = max(int(MESSAGES * scale), 500), max(int(ONE_BY_ONE * scale), 200)
    plain = _plain(machines, many)
    figures = []
    for kind in ("postgresql", "sqlite"):
        batched = asyncio.run(_stock(machines, kind, many, batch_limit=200))
        single = asyncio.run(_stock(machines, kind, few, batch_limit=1))
        figures.append(beside(f"stock lane, {kind}", batched, "messages/s", "the same, batch limit 1", single))
        figures.append(
            beside(f"stock lane, {kind}, against no guarantees", batched, "messages/s", "plain aio-pika", plain)
        )
    return figures


async def _stock(machines: Machines, kind: str, number: int, batch_limit: int) -> float:
    """Messages a second of one stock process, from the first commit seen to the last."""
    amqp_url, database_url = await _lane(machines, number), machines.database(kind)
    await asyncio.to_thread(migrate, "stock", database_url)
    database = Database(database_url)
    async with database.transaction() as session:
        session.add_all(
            Product(sku=f"SKU-{n}", name=f"Product {n}", price=100, currency="BRL", low_threshold=0, on_hand=10**8)
            for n in range(PRODUCTS)
        )

    async def done() -> int:
        async with database.reading() as session:
            return await session.scalar(select(func.count()).select_from(Reservation)) or 0

    async def has_begun() -> bool:
        return await done() > 0

    async def has_ended() -> bool:
        return await done() >= number

    environment = {
        "STOCK_AMQP_URL": amqp_url,
        "STOCK_DATABASE_URL": database_url,
        "STOCK_PORT": "0",
        "STOCK_BATCH_LIMIT": str(batch_limit),
        "MALOTE_JWT_SECRET": SECRET,
        "MALOTE_LOG_FORMAT": "json",
    }
    with process(machines.folder / "stock.log", "services.stock.app", environment):
        started = await wait_for(has_begun, "the first message")
        before = await done()
        ended = await wait_for(has_ended, "the last message")
    await database.dispose()
    return (number - before) / (ended - started)


async def _lane(machines: Machines, number: int) -> str:
    """A vhost with the topology and `number` orders in stock's lane."""
    amqp_url = machines.new_vhost()
    await topology.declare(amqp_url)
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        target = await channel.get_exchange("orders", ensure=False)
        bodies = (_order().model_dump_json().encode() for _ in range(number))
        messages = [aio_pika.Message(body, message_id=str(uuid7()), delivery_mode=2) for body in bodies]
        for start in range(0, number, 500):
            await asyncio.gather(*(target.publish(m, OrderPlaced.key) for m in messages[start : start + 500]))
    return amqp_url


def _order() -> OrderPlaced:
    one = Money(amount=100, currency="BRL")
    skus = random.sample(range(PRODUCTS), 2)
    lines = tuple(PricedLine(sku=f"SKU-{n}", name=f"Product {n}", quantity=1, unit_price=one, total=one) for n in skus)
    return OrderPlaced(
        order_id=uuid7(),
        customer=Customer(id=secrets.token_hex(4), name="Ana", email="ana@example.com"),
        lines=lines,
        total=Money(amount=200, currency="BRL"),
        placed_at="2026-01-01T00:00:00Z",
    )


def _plain(machines: Machines, number: int) -> float:
    """What plain aio-pika does with the same messages: consume, validate, acknowledge. No database, no answer."""
    amqp_url = asyncio.run(_lane(machines, number))
    return asyncio.run(_consume(amqp_url, number))


async def _consume(amqp_url: str, number: int) -> float:
    finished, seen = asyncio.Event(), 0

    async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        nonlocal seen
        OrderPlaced.read(message.body)
        await message.ack()
        seen += 1
        if seen == number:
            finished.set()

    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=400)
        queue = await channel.declare_queue("stock", passive=True)
        started = time.monotonic()
        await queue.consume(take)
        await finished.wait()
        return number / (time.monotonic() - started)
