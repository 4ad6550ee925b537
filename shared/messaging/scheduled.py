"""Messages for later: rows of the service's own database, moved to the outbox when they are due.

A scheduled message is committed with the transaction that sends it, for any time, even years ahead. One transaction
deletes its row and writes it to the outbox, so it is sent once, whichever process dies. A message that is withdrawn
before that is never sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import BigInteger, Column, Index, String, Table, delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.base import Message
from shared.messaging import rows
from shared.messaging.publisher import Outgoing
from shared.persistence import clock
from shared.persistence.database import among, kernel_metadata, one_process_at_a_time

AT_ONCE = 1_000
"""Messages that one transaction moves."""
LOOK_SECONDS = 0.5
"""How often each process looks for due messages. A message is sent at most one second late."""
NAME_LENGTH = 255

scheduled = Table(
    "scheduled",
    kernel_metadata,
    *rows.columns(),
    Column("name", String(NAME_LENGTH)),
    Column("due_at", BigInteger, nullable=False),
    Index("ix_scheduled_due_at", "due_at", "message_id"),
    Index("ix_scheduled_name", "name", unique=True),
)


@dataclass(frozen=True, slots=True)
class Later:
    """A message that a handler returns to be sent at a time, which has a zone. See `Work.send` for `name`."""

    message: Message
    at: datetime
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A message as it is stored, with its time in epoch milliseconds."""

    outgoing: Outgoing
    due_at: int
    name: str | None


def due_at(at: datetime) -> int:
    """A time in epoch milliseconds. Raises ValueError for a time without a zone."""
    if at.tzinfo is None:
        raise ValueError(f"{at.isoformat()} has no time zone: when a message is to be sent needs one")
    return int(at.timestamp() * 1000)


async def write(session: AsyncSession, messages: Sequence[Scheduled]) -> None:
    """Store messages. A message replaces the waiting message of the same name."""
    named = [message.name for message in messages if message.name]
    if named:
        await _alone(session, named)
        await session.execute(delete(scheduled).where(among(session, scheduled.c.name, named)))
    latest = {message.name or message.outgoing.envelope.message_id: message for message in messages}
    values = [rows.to_row(one.outgoing) | {"name": one.name, "due_at": one.due_at} for one in latest.values()]
    await session.execute(insert(scheduled), values)


async def withdraw(session: AsyncSession, name: str) -> bool:
    """Whether a message waited under a name and will never be sent; False if it was sent before or none waits.

    While another transaction moves the message, this call waits for the end of that transaction.
    """
    await _alone(session, [name])
    found = await session.execute(delete(scheduled).where(scheduled.c.name == name))
    return bool(found.rowcount)  # type: ignore[attr-defined]


async def _alone(session: AsyncSession, names: Sequence[str]) -> None:
    """Let no other transaction write or withdraw under these names until this one ends: none sees the other's row."""
    await one_process_at_a_time(session, [f"scheduled {name}" for name in names])


async def is_due(session: AsyncSession) -> bool:
    """Whether a message is due by the database's clock."""
    earliest = await session.scalar(select(func.min(scheduled.c.due_at) - clock.of_database(session)))
    return earliest is not None and earliest <= 0


async def take_due(session: AsyncSession, service: str) -> list[Outgoing]:
    """Delete some messages that are due by the database's clock, and return them, to be sent in this transaction."""
    now = await clock.read(
        session
    )  # a query of its own: with its clock in the condition, PostgreSQL would not use the index
    due = select(scheduled.c.message_id).where(scheduled.c.due_at <= now)
    some = due.order_by(scheduled.c.due_at, scheduled.c.message_id).limit(AT_ONCE).with_for_update(skip_locked=True)
    ids = (await session.scalars(some)).all()
    if not ids:
        return []
    taken = delete(scheduled).where(among(session, scheduled.c.message_id, ids)).returning(*scheduled.c)
    found = sorted((await session.execute(taken)).all(), key=lambda row: (row.due_at, row.message_id))
    return [rows.from_row(row, service, datetime.now(UTC)) for row in found]
