"""A backlog in the outbox, such as a crash or a broker that was away leaves behind: how fast one process publishes it.

Beside it plain aio-pika: the same messages to the same queues, confirmed, so many in flight.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
from uuid_utils.compat import uuid7

from contracts.broker import queue_of
from contracts.stock import StockReserved
from shared.messaging import topology
from shared.messaging.outbox import Outbox
from shared.persistence.clock import moment, now
from shared.persistence.database import Database, migrate
from tests.bench.common import SECRET, Figure, Machines, beside, process, say, wait_for

BACKLOG = 100_000
IN_FLIGHT = 256
AT_ONCE = 5_000


def measure(machines: Machines, scale: float) -> list[Figure]:
    return asyncio.run(_measure(machines, max(int(BACKLOG * scale), 1_000)))


async def _measure(machines: Machines, number: int) -> list[Figure]:
    messages = [_reserved() for _ in range(number)]
    plain = await _plain(machines, messages)
    say(f"  plain aio-pika: {plain:.0f} messages/s")
    ours = await _drained(machines, messages)
    name, rival = f"outbox backlog of {number:,}, postgres", f"plain aio-pika, {IN_FLIGHT} in flight"
    return [beside(name, ours, "messages/s", rival, plain, ">= 2000")]


async def _drained(machines: Machines, messages: list[StockReserved]) -> float:
    """Messages a second of a stock process that finds them, from the first in a lane to the last."""
    url = machines.database("postgresql")
    await asyncio.to_thread(migrate, "stock", url)
    await _leave_behind(url, messages)
    async with _lane(machines) as (amqp_url, channel):
        environment = {
            "STOCK_AMQP_URL": amqp_url,
            "STOCK_DATABASE_URL": url,
            "STOCK_PORT": "0",
            "MALOTE_JWT_SECRET": SECRET,
            "MALOTE_LOG_FORMAT": "json",
        }

        async def has(number: int) -> bool:
            return await _waiting(channel) >= number

        with process(machines.folder / "stock.log", "shared.service", environment, "stock"):
            started = await wait_for(lambda: has(1), "the first message")
            before = await _waiting(channel)
            ended = await wait_for(lambda: has(len(messages)), "the last message")
    return (len(messages) - before) / (ended - started)


async def _leave_behind(url: str, messages: list[StockReserved]) -> None:
    """What a stock process committed that ended before it could publish."""
    database = Database(url)
    outbox = Outbox("stock", database)
    for start in range(0, len(messages), AT_ONCE):
        async with outbox.unit() as unit:
            unit.send(*messages[start : start + AT_ONCE])
    async with database.transaction() as session:
        await outbox.membership.leave(session)
    await database.dispose()


async def _plain(machines: Machines, messages: list[StockReserved]) -> float:
    """Confirmed publishing by aio-pika alone: no table to read from or to delete in."""
    async with _lane(machines) as (_, channel):
        target = await channel.get_exchange(StockReserved.exchange, ensure=False)
        waiting = iter(messages)

        async def work() -> None:
            for message in waiting:
                body = message.model_dump_json().encode()
                await target.publish(aio_pika.Message(body, message_id=str(uuid7()), delivery_mode=2), message.key)

        started = time.monotonic()
        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
        return len(messages) / (time.monotonic() - started)


@asynccontextmanager
async def _lane(machines: Machines) -> AsyncIterator[tuple[str, aio_pika.abc.AbstractChannel]]:
    with machines.vhost() as amqp_url:
        await topology.declare(amqp_url)
        async with await aio_pika.connect(amqp_url) as connection:
            yield amqp_url, await connection.channel()


async def _waiting(channel: aio_pika.abc.AbstractChannel) -> int:
    queue = await channel.declare_queue(queue_of("orders"), passive=True)
    return queue.declaration_result.message_count or 0


def _reserved() -> StockReserved:
    lines = [{"sku": "COFFEE-1KG", "quantity": 1}, {"sku": "MUG", "quantity": 2}]
    return StockReserved(order_id=uuid7(), lines=lines, reserved_at=moment(now()))
