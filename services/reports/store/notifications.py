"""Notifications: what a person was notified of, and a stream of what is new."""

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, Column, String, column, func, select, update, values
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Field
from uuid_utils.compat import uuid7

from contracts.reports import ReportFailed, ReportReady
from services.reports import domain
from services.reports.store.base import Base
from services.reports.store.reports import Report
from shared.persistence import clock
from shared.persistence.changes import Changes
from shared.persistence.clock import first_id, now

SENT_AT_ONCE = 100
COMMIT_MS = 60_000
"""Milliseconds within which a transaction commits after it has made an id."""
CLOCK_SKEW_MS = 5_000
"""Milliseconds by which the clocks of two processes differ in normal operation."""


class Notification(Base, table=True):
    """A notification for a reader (see `domain.reader`). `content` has the fields of `contracts.http.NotificationView`.
    Times are epoch milliseconds."""

    __tablename__ = "notifications"

    id: UUID = Field(primary_key=True)
    reader: str = Field(max_length=256)
    content: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    created_at: int = Field(sa_type=BigInteger)
    read_at: int | None = Field(default=None, sa_type=BigInteger)


_notifications: Any = Notification.__table__  # type: ignore[attr-defined]


def new_notification(report: Report, event: ReportReady | ReportFailed) -> Notification:
    """What the owner of a report reads about the report's end."""
    ends = {"rows": report.rows, "bytes": report.bytes, "detail": report.detail}
    content = {"message": event.key, **report.reference, "report_id": str(report.id), **ends}
    return Notification(id=uuid7(), reader=domain.reader(report.owner, report.role), content=content, created_at=now())


def select_notifications(reader: str) -> Any:
    """All notifications of a reader."""
    return select(Notification).where(_notifications.c.reader == reader)


async def count_unread(session: AsyncSession, reader: str) -> int:
    """How many notifications of a reader are unread."""
    mine = (_notifications.c.reader == reader, _notifications.c.read_at.is_(None))
    return int(await session.scalar(select(func.count()).select_from(_notifications).where(*mine)) or 0)


async def mark_all_read(session: AsyncSession, reader: str) -> None:
    """Mark all notifications of a reader as read."""
    mine = (_notifications.c.reader == reader, _notifications.c.read_at.is_(None))
    await session.execute(update(_notifications).where(*mine).values(read_at=now()))


# -- the stream -------------------------------------------------------------------------------------------------------


async def _newest(session: AsyncSession, readers: Collection[str]) -> dict[str, UUID | None]:
    """The newest notification of each reader. The query looks into the index once for each reader, however many
    notifications there are."""
    asked = values(column("reader", String), name="asked").data([(reader,) for reader in readers]).cte("asked")
    newest = select(_notifications.c.id).where(_notifications.c.reader == asked.c.reader)
    newest = newest.order_by(_notifications.c.id.desc()).limit(1)
    rows = await session.execute(select(asked.c.reader, newest.scalar_subquery().label("newest")))
    return {row.reader: row.newest for row in rows}


news = Changes(_newest)
"""Changes by reader, one object for the process: handlers announce new notifications, HTTP requests wait for them."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client has received: all notifications up to the id `until`, and those in `ids` after it."""

    until: UUID
    ids: frozenset[UUID] = frozenset()


async def seen_by(session: AsyncSession, reader: str, last_event_id: str | None) -> Seen:
    """What a client has received, by the last event that it names. A client that names none, or one that is not ours,
    counts as having received all that there is now."""
    at = await clock.read(session)
    committed = first_id(at - COMMIT_MS)
    with suppress(ValueError):
        named = UUID(last_event_id or "")
        if named < first_id(at + CLOCK_SKEW_MS):
            return Seen(named)
        # The clock of the process that made the id ran ahead. Later notifications have lower ids.
        return Seen(committed, frozenset([named]))
    _, found = await unseen(session, reader, Seen(committed))
    return found


async def unseen(session: AsyncSession, reader: str, seen: Seen) -> tuple[list[Notification], Seen]:
    """Some notifications that a client has not received, in order of their ids, and what it has received after them.

    A process makes an id before it commits the row. So a row with a lower id can appear later than one with a higher
    id, and each call reads the last minute again.
    """
    limit = SENT_AT_ONCE + len(seen.ids)
    query = select_notifications(reader).where(_notifications.c.id > seen.until)
    found = (await session.scalars(query.order_by(_notifications.c.id).limit(limit))).all()
    committed = first_id(await clock.read(session) - COMMIT_MS)
    until = max(seen.until, min(committed, found[-1].id) if len(found) == limit else committed)
    ids = frozenset(row.id for row in found if row.id > until)
    return [row for row in found if row.id not in seen.ids], Seen(until, ids)
