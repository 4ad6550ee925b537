"""The stock lane by itself: messages a second with full guarantees, beside itself one by one and plain aio-pika.

Then the same lane with several processes. All of them are held until the lane is full, so that no start is measured.
"""

import asyncio
import contextlib
import random
import secrets
import signal
import time
from collections.abc import AsyncIterator
from statistics import median

import aio_pika
from sqlalchemy import text
from uuid_utils.compat import uuid7

from contracts.base import Message, Money
from contracts.broker import queue_of
from contracts.orders import Customer, OrderPlaced, PricedLine
from services.stock.store import Product
from shared.messaging import topology
from shared.persistence.database import Database, migrate
from tests.bench.common import SECRET, Figure, Machines, alone, beside, process, say, wait_for

MESSAGES = 10_000
ONE_BY_ONE = 1_000
ROUNDS = 3
PRODUCTS = 50
PROCESSES = (2, 4)


def measure(machines: Machines, scale: float) -> list[Figure]:
    many, few = max(int(MESSAGES * scale), 500), max(int(ONE_BY_ONE * scale), 200)
    return asyncio.run(_measure(machines, many, few))


async def _measure(machines: Machines, many: int, few: int) -> list[Figure]:
    figures = []
    plain = median([await _plain(machines, many) for _ in range(ROUNDS)])
    for kind, name in (("postgresql", "postgres"), ("sqlite", "sqlite")):
        say(f"stock lane, {name}")
        url = await stock_database(machines, kind)
        batched = median([await drained(machines, url, many) for _ in range(ROUNDS)])
        single = await drained(machines, url, few, batch_limit=1)
        figures += [
            beside(f"stock lane, {name}", batched, "messages/s", "the same, batch limit 1", single, ">= 10 x"),
            alone(f"stock lane, {name}: a batch of one", 1000 / single, "ms"),
            beside(f"stock lane, {name}: without guarantees", batched, "messages/s", "plain aio-pika", plain),
        ]
    for number in PROCESSES:
        say(f"stock lane, {number} processes")
        url, rates = await stock_database(machines, "postgresql"), []
        for _ in range(ROUNDS):  # in turns
            rates.append([await drained(machines, url, many, processes=n) for n in (1, number)])
        one, several = (median(rate) for rate in zip(*rates, strict=True))
        name = f"stock lane, postgres, {number} processes"
        figures.append(beside(name, several, "messages/s", "one process", one, ">= 0.9 x"))
    return figures


async def stock_database(machines: Machines, kind: str) -> str:
    """A stock service's new database, with something to sell."""
    url = machines.database(kind)
    await asyncio.to_thread(migrate, "stock", url)
    await sell(url)
    return url


async def sell(url: str) -> None:
    """Put what the orders of this module ask for into a stock service's database."""
    async with _database(url) as database, database.transaction() as session:
        session.add_all(
            Product(sku=_sku(n), name=f"Product {n}", price=100, currency="BRL", low_threshold=0, on_hand=10**8)
            for n in range(PRODUCTS)
        )


async def drained(machines: Machines, url: str, number: int, *, batch_limit: int = 200, processes: int = 1) -> float:
    """Messages a second of so many stock processes, from a lane that holds `number` of them to an empty one."""
    with machines.vhost() as amqp_url, contextlib.ExitStack() as stack:
        await topology.declare(amqp_url)
        environment = {
            "STOCK_AMQP_URL": f"{amqp_url}?heartbeat=0",  # the processes are stopped while the lane is filled
            "STOCK_DATABASE_URL": url,
            "STOCK_PORT": "0",
            "STOCK_BATCH_LIMIT": str(batch_limit),
            "MALOTE_JWT_SECRET": SECRET,
            "MALOTE_LOG_FORMAT": "json",
        }
        log = machines.folder / "stock.log"
        children = [stack.enter_context(process(log, "shared.service", environment, "stock")) for _ in range(processes)]
        async with _database(url) as database, await aio_pika.connect(amqp_url) as connection:
            channel = await connection.channel()

            async def are_ready() -> bool:
                queue = await channel.declare_queue(queue_of("stock"), passive=True)
                return queue.declaration_result.consumer_count == processes

            await wait_for(are_ready, "the lane's consumers")
            for child in children:
                child.send_signal(signal.SIGSTOP)
            await publish(channel, [_order() for _ in range(number)])
            goal = await _reserved(database) + 2 * number

            async def is_done() -> bool:
                return await _reserved(database) >= goal

            assert await are_ready(), "the lane's consumers were lost while it was filled"
            started = time.monotonic()
            for child in children:
                child.send_signal(signal.SIGCONT)
            return number / (await wait_for(is_done, "the last message") - started)


async def _reserved(database: Database) -> int:
    """How many pieces are set aside: one for each line. The table is small, whatever else grows."""
    async with database.reading() as session:
        return int(await session.scalar(text("SELECT sum(reserved) FROM products")) or 0)


async def publish(channel: aio_pika.abc.AbstractChannel, messages: list[Message]) -> None:
    """Confirmed, 500 at once."""
    target = await channel.get_exchange(messages[0].exchange, ensure=False)
    marked = [
        (aio_pika.Message(message.model_dump_json().encode(), message_id=str(uuid7()), delivery_mode=2), message.key)
        for message in messages
    ]
    for start in range(0, len(marked), 500):
        await asyncio.gather(*(target.publish(*one) for one in marked[start : start + 500]))


def _order() -> OrderPlaced:
    one = Money(amount=100, currency="BRL")
    skus = random.sample(range(PRODUCTS), 2)
    lines = tuple(PricedLine(sku=_sku(n), name=f"Product {n}", quantity=1, unit_price=one, total=one) for n in skus)
    return OrderPlaced(
        order_id=uuid7(),
        customer=Customer(id=secrets.token_hex(4), name="Ana", email="ana@example.com"),
        lines=lines,
        total=Money(amount=200, currency="BRL"),
        placed_at="2026-01-01T00:00:00Z",
    )


def _sku(number: int) -> str:
    return f"LANE-{number}"


async def _plain(machines: Machines, number: int) -> float:
    """What plain aio-pika does with the same messages: consume, validate, acknowledge. No database, no answer."""
    finished, seen = asyncio.Event(), 0

    async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        nonlocal seen
        OrderPlaced.read(message.body)
        await message.ack()
        seen += 1
        if seen == number:
            finished.set()

    with machines.vhost() as amqp_url:
        await topology.declare(amqp_url)
        async with await aio_pika.connect(amqp_url) as connection:
            await publish(await connection.channel(), [_order() for _ in range(number)])
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=400)
            queue = await channel.declare_queue(queue_of("stock"), passive=True)
            started = time.monotonic()
            await queue.consume(take)
            await finished.wait()
            return number / (time.monotonic() - started)


@contextlib.asynccontextmanager
async def _database(url: str) -> AsyncIterator[Database]:
    database = Database(url)
    try:
        yield database
    finally:
        await database.dispose()
