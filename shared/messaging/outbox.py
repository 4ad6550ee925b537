"""The outbox: what a transaction decided to say is committed with it, published after it, then deleted.

This is the table and the transaction. `relay` publishes, in order, from the process's `hand`. Each row carries the id
of the process that is to publish it, and `membership` says which of these live. Nothing is judged by the age of a row,
so a slow process is not mistaken for a dead one.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    Float,
    Index,
    Row,
    String,
    Table,
    delete,
    func,
    insert,
    select,
)
from sqlalchemy.ext.asyncio import AsyncSession

from shared.messaging import rows, scheduled
from shared.messaging.hand import Hand
from shared.messaging.membership import Membership
from shared.messaging.publisher import Outgoing
from shared.messaging.unit import UnitOfWork
from shared.observability import metrics
from shared.persistence.database import Database, among, kernel_metadata

outbox = Table(
    "outbox",
    kernel_metadata,
    *rows.columns(),
    Column("owner", String(36), nullable=False),
    Column("sent_at", Float, nullable=False),
    Column("lane", String(64)),
    Column("properties", JSON(none_as_null=True)),
    Index("ix_outbox_owner", "owner", "message_id"),
)


class OutboxFull(Exception):
    """As many messages wait for the broker as may; the text is for whoever asked. The HTTP edge answers 503."""


class Outbox:
    """A service's transactions: what they say is in the table once they are committed, and in the process's hand."""

    def __init__(self, service: str, database: Database, limit: int = 500_000) -> None:
        self.service = service
        self.membership, self.hand = Membership(), Hand()
        self.owner = self.membership.id
        self._database = database
        self._limit, self._rows = limit, 0  # of the whole table: as last counted, and what we did to it since
        self._measuring = asyncio.Lock()

    def demand_room(self) -> None:
        """Raises `OutboxFull` while as many messages wait for the broker as may. Only requests over HTTP ask: a lane
        has nothing to do while the broker is away."""
        if self._rows >= self._limit:
            raise OutboxFull(
                f"{self._limit:,} messages wait for the broker, and no more are accepted until it takes some."
            )

    def request(self, traceparent: str) -> AbstractAsyncContextManager[UnitOfWork]:
        """The transaction of a request over HTTP. Raises `OutboxFull`, see `demand_room`."""
        self.demand_room()
        return self.unit(traceparent)

    def unit(self, traceparent: str | None = None) -> AbstractAsyncContextManager[UnitOfWork]:
        """One transaction with its messages: committed together, or neither."""
        return self._unit(traceparent, self.hand.worth_a_statement)

    @asynccontextmanager
    async def _unit(self, traceparent: str | None, at_least: int) -> AsyncIterator[UnitOfWork]:
        """A transaction that also deletes published rows, if there are `at_least` so many."""
        with self.hand.confirmed(at_least) as confirmed, ExitStack() as until_committed:
            async with self._database.transaction() as session:
                unit = UnitOfWork(session, self.service, traceparent)
                yield unit
                await session.flush()
                beaten_at = await self.membership.beat(session)
                written = await self._write(session, unit.outgoing, confirmed)
                if unit.scheduled:
                    await scheduled.write(session, unit.scheduled)
                until_committed.enter_context(self.hand.adding(unit.outgoing))
        self.membership.committed(beaten_at)
        self._rows += written - len(confirmed)
        self.hand.add(unit.outgoing)

    def reading(self) -> AbstractAsyncContextManager[AsyncSession]:
        """A session that only reads, in no transaction of the outbox's."""
        return self._database.reading()

    async def delete_published(self) -> None:
        """Delete published rows and renew the heartbeat, in a transaction of its own."""
        async with self._unit(None, at_least=1):
            pass

    async def send_due(self) -> None:
        """Send all messages whose time has come. Several processes can do it at a time: each takes others."""
        number = scheduled.AT_ONCE
        while number == scheduled.AT_ONCE:
            async with self.reading() as session:
                if not await scheduled.is_due(session):
                    return
            async with self.unit() as unit:
                unit.outgoing += await scheduled.take_due(unit.session, self.service)
                number = len(unit.outgoing)

    async def _write(self, session: AsyncSession, messages: Sequence[Outgoing], confirmed: list[str]) -> int:
        """Return how many rows were added."""
        values = [_to_row(message, self.owner) for message in messages if not message.transient]
        if values:
            await session.execute(insert(outbox), values)
        if confirmed:
            await session.execute(delete(outbox).where(among(session, outbox.c.message_id, confirmed)))
        return len(values)

    async def measure(self) -> None:
        """Say how much the whole table holds, whoever's it is: also what no living process has in hand."""
        async with self._measuring:  # two at a time would both add what is missing
            before = self._rows
            async with self.reading() as session:
                # Not by the lowest id: a message that was scheduled long ago has an old one.
                number, oldest = (await session.execute(select(func.count(), func.min(outbox.c.sent_at)))).one()
            # What was committed meanwhile may count twice, and that only until the next time.
            self._rows += number - before
        metrics.of(metrics.OUTBOX_MESSAGES, self.service).set(number)
        age = max(0.0, time.time() - oldest) if oldest else 0.0
        metrics.of(metrics.OUTBOX_OLDEST_SECONDS, self.service).set(age)


def _to_row(message: Outgoing, owner: str) -> dict[str, object]:
    own = {"owner": owner, "sent_at": message.envelope.sent_at.timestamp()}
    return rows.to_row(message) | own | {"lane": message.lane, "properties": message.properties}


def from_row(row: Row[Any], sender: str) -> Outgoing:
    """A message as its transaction sent it."""
    sent_at = datetime.fromtimestamp(row.sent_at, UTC)
    return rows.from_row(row, sender, sent_at, lane=row.lane, properties=row.properties)
