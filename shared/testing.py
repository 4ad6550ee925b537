"""A harness for handlers: given these rows, when these messages, then those messages and rows. No broker, no server.

async with Harness(handlers) as stock:
    await stock.given(Product(sku="A", on_hand=3, …))
    said = await stock.when(order_for("A", 2))
    assert said == [StockReserved(order_id=…)]
    assert (await stock.row(Product, "A")).reserved == 2
"""

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import select
from sqlmodel import SQLModel
from uuid_utils.compat import uuid7

from contracts.base import Envelope, Message
from contracts.flow import BY_KEY
from shared.messaging.decode import Delivery
from shared.messaging.handler import Handler
from shared.messaging.lane import load, send
from shared.messaging.resources import Resources
from shared.messaging.unit import UnitOfWork
from shared.persistence.database import Database

Table = TypeVar("Table", bound=SQLModel)


class Harness:
    """Runs a module's handlers as a lane would: one batch, one transaction, the loaders first."""

    def __init__(self, handlers: ModuleType, *tables: type[SQLModel], resources: Sequence[object] = ()) -> None:
        found: list[Handler] = [h for f in vars(handlers).values() for h in getattr(f, "handlers", ())]
        self._handlers = {handler.contract: handler for handler in found}
        self._given = resources
        self._metadatas = {table.metadata for table in tables}

    async def __aenter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        self._database = Database(f"sqlite:///{Path(self._folder.name) / 'test.db'}")
        await self._database.create_all(*self._metadatas)
        self._resources = Resources(self._database, *self._given)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self._database.dispose()
        self._folder.cleanup()

    async def given(self, *rows: SQLModel) -> None:
        """Put rows into the database."""
        async with self._database.transaction() as session:
            session.add_all(rows)

    async def when(self, *messages: Message, job: str | None = None) -> list[Message]:
        """Handle messages as one batch, which belongs to `job`; return what follows from them, in order.

        Raises what a handler raises; nothing is changed then.
        """
        not_delivered: Any = None
        batch = [Delivery(not_delivered, _envelope(m, job), m, self._handlers[type(m)]) for m in messages]
        async with self._database.transaction() as session:
            unit = UnitOfWork(session, "test")
            await load(unit, batch)
            for delivery in batch:
                await self._handle(delivery, unit)
        return [BY_KEY[sent.envelope.key].read(sent.body) for sent in unit.outgoing]

    async def _handle(self, delivery: Delivery, unit: UnitOfWork) -> None:
        call = delivery.handler.with_resources(self._resources).call
        unit.cause = delivery.envelope
        if not delivery.handler.concurrency:
            send(unit, await call(delivery.message, unit))
            return
        work = unit.outside(delivery.envelope, _nobody_took_it)
        replies = await call(delivery.message, work)
        unit.take_up(work)
        send(unit, replies)

    async def row(self, table: type[Table], key: Any) -> Table:
        """A row as it is now. Raises KeyError if there is none."""
        async with self._database.reading() as session:
            found = await session.get(table, key)
        if found is None:
            raise KeyError(f"no {table.__name__} {key!r}")
        return found

    async def rows(self, table: type[Table]) -> list[Table]:
        """All rows of a table."""
        async with self._database.reading() as session:
            return list((await session.scalars(select(table))).all())


async def _nobody_took_it() -> None:
    """Do nothing: there is no other process that could take a message over."""


def _envelope(message: Message, job: str | None) -> Envelope:
    message_id = str(uuid7())
    return Envelope(message_id, job or message_id, message.key, "test", datetime.now(UTC))
