"""Writes orders directly into the tables of orders, stock and reports: a shop's past in a minute instead of an hour.

Services may run meanwhile. Each step is one transaction in each database. In reports, it locks the read model's row and
takes the next revision, as a batch of events does, so a running export does not show it.
"""

import asyncio
import contextlib
import functools
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import asyncpg

from deploy.local.history import COLUMNS, CURRENCY, History, Product, Rows, products
from shared.config.tls import Tls
from shared.config.urls import database_address
from shared.persistence.database import migrate

STEP = 10_000
"""Orders in one transaction."""

DATABASES = ("orders", "stock", "reports")
_TABLES = {"read_orders": "orders", "read_lines": "order_lines", "read_movements": "stock_movements"}
_LOCK_SECONDS = 60.0
_NEW_PRODUCT = (
    "INSERT INTO products (sku, name, price, currency, low_threshold, on_hand, reserved, revision) "
    "VALUES ($1, $2, $3, $4, $5, 0, 0, 1) ON CONFLICT DO NOTHING"
)
_NEW_PRICE = (
    "INSERT INTO prices (sku, name, amount, currency, revision) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING"
)
_LEVEL = "UPDATE products SET on_hand = on_hand + $2, reserved = reserved + $3 WHERE sku = $1"
_REVISION = "UPDATE read_model SET revision = revision + 1 WHERE id = 1 RETURNING revision"

Row = tuple[Any, ...]


class Tables(Protocol):
    """One database's tables; `$1` stands for the first value of a row."""

    def transaction(self) -> contextlib.AbstractAsyncContextManager[object]: ...

    async def put(self, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None: ...

    async def each(self, statement: str, rows: Sequence[Row]) -> None: ...

    async def ask(self, query: str) -> Sequence[Sequence[Any]]: ...


class Postgres:
    """Writes by COPY in the binary format."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def transaction(self) -> contextlib.AbstractAsyncContextManager[object]:
        transaction: contextlib.AbstractAsyncContextManager[object] = self._connection.transaction()
        return transaction

    async def put(self, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
        await self._connection.copy_records_to_table(table, columns=columns, records=rows)

    async def each(self, statement: str, rows: Sequence[Row]) -> None:
        await self._connection.executemany(statement, rows)

    async def ask(self, query: str) -> Sequence[Sequence[Any]]:
        found: Sequence[Sequence[Any]] = await self._connection.fetch(query)
        return found


class Sqlite:
    """Writes by `executemany` in a thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        await self.ask("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.rollback()
            raise
        await asyncio.to_thread(self._connection.commit)

    async def put(self, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - our own names
        await asyncio.to_thread(self._connection.executemany, statement, rows)

    async def each(self, statement: str, rows: Sequence[Row]) -> None:
        await asyncio.to_thread(self._connection.executemany, statement.replace("$", "?"), rows)

    async def ask(self, query: str) -> Sequence[Sequence[Any]]:
        return await asyncio.to_thread(lambda: self._connection.execute(query).fetchall())


async def populate(
    urls: Mapping[str, str],
    number: int,
    *,
    days: int = 365,
    seed: int = 1,
    until: datetime | None = None,
    done: Callable[[int], None] = lambda _: None,
    tls: Tls | None = None,
) -> None:
    """Put `number` orders of the `days` before `until` (now) into the databases of `urls`; migrates them first.

    The same arguments give the same orders. `done` is called with the number of further orders. After an interruption,
    at most one step is missing in reports: `malote reports rebuild` adds it.
    """
    for service in DATABASES:
        await asyncio.to_thread(migrate, service, urls[service], tls)
    async with contextlib.AsyncExitStack() as stack:
        orders, stock, reports = [await stack.enter_async_context(_open(urls[name], tls)) for name in DATABASES]
        sold = await _offered(orders, stock)
        chunks = History(number, days, seed, until or datetime.now(UTC), sold).chunks(STEP)
        ahead = asyncio.create_task(_next(chunks))
        while rows := await ahead:
            ahead = asyncio.create_task(_next(chunks))  # made while the databases write the previous rows
            await _write(rows, orders, stock, reports)
            done(len(rows.orders))
        for tables in (orders, stock, reports):
            await tables.ask("ANALYZE")  # otherwise queries would be planned for empty tables


async def _next(chunks: Iterator[Rows]) -> Rows | None:
    return await asyncio.to_thread(next, chunks, None)


async def _offered(orders: Tables, stock: Tables) -> list[Product]:
    """The products, at their present prices in this shop."""
    wished = {product.sku: product for product in products()}
    async with stock.transaction():
        await stock.each(_NEW_PRODUCT, [(p.sku, p.name, p.price, CURRENCY, p.low_threshold) for p in wished.values()])
    known = await stock.ask("SELECT sku, name, price, currency, revision FROM products")
    async with orders.transaction():
        await orders.each(_NEW_PRICE, [tuple(row) for row in known])
    listed = await orders.ask("SELECT sku, name, amount, currency FROM prices ORDER BY sku")
    return [
        wished[sku]._replace(name=name, price=price)
        for sku, name, price, currency in listed
        if sku in wished and currency == CURRENCY
    ]


async def _write(rows: Rows, orders: Tables, stock: Tables, reports: Tables) -> None:
    """Write one step. The read model comes last, so that it has no order that its sources lack."""
    async with reports.transaction():
        ((revision,),) = await reports.ask(_REVISION)
        async with orders.transaction(), stock.transaction():
            done = await asyncio.gather(  # all end before the failure of one rolls back their transactions
                orders.put("orders", COLUMNS["orders"], rows.orders),
                _write_stock(rows, stock),
                _write_read_model(rows, revision, reports),
                return_exceptions=True,
            )
            for error in done:
                if error:
                    raise error


async def _write_stock(rows: Rows, stock: Tables) -> None:
    await stock.put("reservations", COLUMNS["reservations"], rows.reservations)
    await stock.put("adjustments", COLUMNS["adjustments"], rows.adjustments)
    await stock.each(_LEVEL, [(sku, *level) for sku, level in rows.levels.items()])


async def _write_read_model(rows: Rows, revision: int, reports: Tables) -> None:
    facts = ("confirmed_revision", "rejected_revision", "cancelled_revision")
    columns = (*COLUMNS["read_orders"], "revision", *facts)
    known = ((*row, revision, *(revision if at else None for at in row[-3:])) for row in rows.read_orders)
    await reports.put("orders", columns, known)
    for name in ("read_lines", "read_movements"):
        made = ((*row, revision) for row in getattr(rows, name))
        await reports.put(_TABLES[name], (*COLUMNS[name], "revision"), made)


@contextlib.asynccontextmanager
async def _open(url: str, tls: Tls | None) -> AsyncIterator[Tables]:
    parsed, secure = database_address(url, tls)
    if parsed.get_backend_name() == "sqlite":
        connect = functools.partial(sqlite3.connect, timeout=_LOCK_SECONDS, isolation_level=None)
        with contextlib.closing(connect(parsed.database or "", check_same_thread=False)) as file:
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "cache_size=-65536"):
                file.execute(f"PRAGMA {pragma}")
            yield Sqlite(file)
    else:
        dsn = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
        connection = await asyncpg.connect(dsn, **secure)
        try:
            yield Postgres(connection)
        finally:
            await connection.close()
