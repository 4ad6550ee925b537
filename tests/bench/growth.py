"""The whole flow and the stock lane again, with the past of a shop in the tables, beside the same with empty ones.

Every table that grows is filled: one real order's rows are copied, under new ids, for each order of the last two weeks.
"""

import asyncio
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean

import asyncpg

from tests.bench import lane
from tests.bench.common import Figure, Machines, beside, say
from tests.bench.shops import WARM_UP, malote, new_databases, run

SIZES = (10_000, 100_000, 1_000_000)
ORDERS = 1_000
MESSAGES = 5_000
BYTES_AN_ORDER = 25_000  # 14,000 in all tables (measured); the rest for what the database writes beside them
STEP_MS = 14 * 86_400_000 // SIZES[-1]
# What the machine does meanwhile hits both alike. Two of each still differed by a tenth, by chance.
TURNS = ("empty", "filled", "filled", "empty") * 2


def measure(machines: Machines, scale: float) -> list[Figure]:
    needed, free = BYTES_AN_ORDER * SIZES[-1] * scale, shutil.disk_usage(machines.postgres.folder).free
    if free < needed:
        say(f"  left out: {needed / 1e9:.0f} GB are needed, {machines.postgres.folder} has room for {free / 1e9:.0f}")
        return []
    return asyncio.run(_measure(machines, scale))


async def _measure(machines: Machines, scale: float) -> list[Figure]:
    orders, messages = max(int(ORDERS * scale), 100), max(int(MESSAGES * scale), 500)
    urls, figures, filled = await new_databases(machines, "postgresql"), [], 0
    async with malote(machines, "postgresql", urls):
        pass  # its first orders are what is copied
    await _sample(urls)
    await lane.sell(urls["stock"])
    for size in (max(int(size * scale), 200) for size in SIZES):
        started = time.monotonic()
        await _fill(urls, filled, size)
        say(f"  {size - filled:,} orders more in the tables, after {time.monotonic() - started:.0f} s")
        filled = size
        rates: dict[str, list[tuple[float, float]]] = {"empty": [], "filled": []}
        for turn in TURNS:
            used = urls if turn == "filled" else await new_databases(machines, "postgresql")
            async with malote(machines, "postgresql", used) as shop:
                whole = (await run(shop, orders)).whole
            if turn == "empty":
                await lane.sell(used["stock"])
            rates[turn].append((whole, await lane.drained(machines, used["stock"], messages)))
            say(f"  {turn}: {whole:.0f} orders/s, stock lane {rates[turn][-1][1]:.0f} messages/s")
        for n, (name, unit) in enumerate((("whole flow", "orders/s"), ("stock lane", "messages/s"))):
            ours, empty = (mean(rate[n] for rate in rates[turn]) for turn in ("filled", "empty"))
            named = f"{name}, postgres, with {size:,} orders in the tables"
            figures.append(beside(named, ours, unit, "with empty tables", empty, ">= 0.9 x"))
    return figures


# -- filling ----------------------------------------------------------------------------------------------------------


def _id(*salts: str) -> str:
    """SQL for a UUIDv7 of order `n`'s time, always the same for the same salts."""
    noise = f"md5(concat_ws('/', {', '.join(salts)}, n))"
    return f"(lpad(to_hex({_AT}), 12, '0') || '7' || left({noise}, 3) || '8' || substr({noise}, 4, 15))::uuid"


_AT = f"((extract(epoch FROM current_date)::bigint * 1000) - ({SIZES[-1]} - n) * {STEP_MS})"
_ORDER, _JOB = _id("'order'"), _id("'job'")
_CUSTOMER = "'c' || n % 50000"


@dataclass(frozen=True)
class Copied:
    """A table, which of its rows belong to one order (`$1`), and what differs in their copies for order `n`."""

    service: str
    table: str
    rows: str
    different: Mapping[str, str]


# Messages are not kept with their orders: as many of each lane as an order has.
_AS_MANY = f"""(lane, message_id) IN (
    SELECT lane, message_id FROM (
        SELECT lane, message_id, row_number() OVER (PARTITION BY lane ORDER BY message_id) AS place,
            count(*) OVER (PARTITION BY lane) AS number
        FROM inbox
    ) placed WHERE place <= round(number / {WARM_UP}.0)
)"""
_TABLES = (
    Copied("orders", "orders", "id = $1", {
        "id": _ORDER, "job_id": f"{_JOB}::text", "customer_id": _CUSTOMER, "placed_at": _AT, "confirmed_at": _AT,
    }),
    Copied("stock", "reservations", "order_id = $1", {"order_id": _ORDER, "reserved_at": _AT, "taken_at": _AT}),
    Copied("email", "mails", "order_id = $1", {
        "id": _id("s.kind"), "order_id": _ORDER, "message_id": f"concat('<', {_id('s.kind')}, '@malote.example>')",
        "correlation_id": f"{_JOB}::text", "created_at": _AT, "sent_at": _AT,
    }),
    Copied("gateway", "jobs", "resource_id = $1", {
        "id": _JOB, "resource_id": _ORDER, "owner": _CUSTOMER, "created_at": _AT, "updated_at": _AT, "ended_at": _AT,
    }),
    Copied("reports", "orders", "id = $1", {
        "id": _ORDER, "placed_at": _AT, "customer_id": _CUSTOMER, "confirmed_at": _AT,
    }),
    Copied("reports", "order_lines", "order_id = $1", {"order_id": _ORDER, "placed_at": _AT}),
    Copied("reports", "stock_movements", "order_id = $1", {
        "id": f"concat({_ORDER}, substr(s.id, 37))", "order_id": _ORDER, "moved_at": _AT,
    }),
    *(
        Copied(service, "inbox", _AS_MANY, {
            "message_id": f"{_id('s.lane', 's.message_id')}::text", "received_at": f"{_AT} / 1000",
        })
        for service in ("orders", "stock", "email", "gateway", "reports")
    ),
)  # fmt: skip


async def _sample(urls: Mapping[str, str]) -> None:
    """Keep the rows of one order aside, to be copied."""
    orders = await asyncpg.connect(urls["orders"])
    order_id = await orders.fetchval(
        "SELECT id FROM orders WHERE state = 'CONFIRMED' AND json_array_length(lines) = 2 ORDER BY id LIMIT 1"
    )
    await orders.close()
    for copied in _TABLES:
        connection = await asyncpg.connect(urls[copied.service])
        rows = copied.rows.replace("$1", f"'{order_id}'")
        await connection.execute("CREATE SCHEMA IF NOT EXISTS sample")
        await connection.execute(f"CREATE TABLE sample.{copied.table} AS SELECT * FROM {copied.table} WHERE {rows}")
        await connection.close()


async def _fill(urls: Mapping[str, str], after: int, until: int) -> None:
    """Copy what is kept aside for each order from `after` + 1 to `until`, in all databases at once."""
    services = {copied.service for copied in _TABLES}
    await asyncio.gather(*(_fill_one(service, urls[service], after, until) for service in services))


async def _fill_one(service: str, url: str, after: int, until: int) -> None:
    connection = await asyncpg.connect(url)
    for copied in _TABLES:
        if copied.service != service:
            continue
        columns = [*(await connection.fetchrow(f"SELECT * FROM sample.{copied.table}")).keys()]
        values = ", ".join(copied.different.get(column, f"s.{column}") for column in columns)
        put = await connection.execute(
            f"INSERT INTO {copied.table} ({', '.join(columns)}) SELECT {values} "
            f"FROM generate_series({after + 1}, {until}) n CROSS JOIN sample.{copied.table} s"
        )
        assert int(put.split()[-1]) >= until - after, f"{service}, {copied.table}: {put}"
    await connection.execute("VACUUM (ANALYZE)")  # it would do so by itself a minute later, in the midst of the figures
    await connection.execute("CHECKPOINT")
    await connection.close()
