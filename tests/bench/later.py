"""A million messages that are due in years: batches and starting go on as if there were none."""

import asyncio
import time
from statistics import median

import aio_pika
from sqlalchemy import text

from contracts.broker import queue_of
from shared.messaging import topology
from shared.persistence.database import Database
from tests.bench.common import SECRET, Figure, Machines, beside, process, say, wait_for
from tests.bench.lane import drained, stock_database

WAITING = 1_000_000
MESSAGES = 5_000
ROUNDS = 3
_ROW = "'stock', 'stock.reserved.v1', 'job', {false}, 'x', {due} + n"
_COLUMNS = "message_id, exchange, key, correlation_id, mandatory, body, due_at"
YEAR_2100 = 4_102_444_800_000
FILL = {
    "postgresql": f"INSERT INTO scheduled ({_COLUMNS}) SELECT lpad(n::text, 36, '0'), "
    + _ROW.format(false="false", due=YEAR_2100)
    + " FROM generate_series(1, {number}) n",
    "sqlite": f"INSERT INTO scheduled ({_COLUMNS}) WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s"
    " WHERE n < {number}) SELECT printf('%036d', n), " + _ROW.format(false="0", due=YEAR_2100) + " FROM s",
}


def measure(machines: Machines, scale: float) -> list[Figure]:
    return asyncio.run(_measure(machines, max(int(WAITING * scale), 1_000), max(int(MESSAGES * scale), 500)))


async def _measure(machines: Machines, waiting: int, number: int) -> list[Figure]:
    figures = []
    for kind, name in (("postgresql", "postgres"), ("sqlite", "sqlite")):
        say(f"stock lane, {name}, with {waiting:,} messages for later")
        without, full = await stock_database(machines, kind), await stock_database(machines, kind)
        database = Database(full)
        async with database.transaction() as session:
            await session.execute(text(FILL[kind].format(number=waiting)))
        await database.dispose()
        rates: dict[str, list[float]] = {without: [], full: []}
        starts: dict[str, list[float]] = {without: [], full: []}
        for _ in range(ROUNDS):  # in turns
            for url in (without, full):
                rates[url].append(await drained(machines, url, number))
                starts[url].append(await _started(machines, url))
        about = f"{name}, {waiting:,} messages for later"
        rival = "none for later"
        figures += [
            beside(
                f"stock lane, {about}", median(rates[full]), "messages/s", rival, median(rates[without]), ">= 0.9 x"
            ),
            beside(f"start, {about}", median(starts[full]), "s", rival, median(starts[without]), "<= 1.1 x"),
        ]
    return figures


async def _started(machines: Machines, url: str) -> float:
    """Seconds from the start of a stock process until it consumes."""
    with machines.vhost() as amqp_url:
        await topology.declare(amqp_url)
        environment = {"STOCK_AMQP_URL": amqp_url, "STOCK_DATABASE_URL": url, "STOCK_PORT": "0"}
        began = time.monotonic()
        with process(
            machines.folder / "stock.log", "shared.service", environment | {"MALOTE_JWT_SECRET": SECRET}, "stock"
        ):
            async with await aio_pika.connect(amqp_url) as connection:
                channel = await connection.channel()

                async def consumes() -> bool:
                    queue = await channel.declare_queue(queue_of("stock"), passive=True)
                    return bool(queue.declaration_result.consumer_count)

                await wait_for(consumes, "the lane's consumer", 60)
                return time.monotonic() - began
