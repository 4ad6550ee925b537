"""Deletes rows that are older than anybody asks for."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select

from services.reports.store.notifications import Notification
from services.reports.store.reports import Report
from shared.persistence import clock
from shared.persistence.database import Database

DELETED_AT_ONCE = 100

FORGOTTEN_AFTER = 30 * 86_400_000
"""Milliseconds for which the row of a report is kept after its file is gone."""


async def forget(database: Database, keep_days: float) -> None:
    """Delete old reports and notifications, in short transactions."""
    reports: Any = Report
    async with database.reading() as session:
        before = await clock.read(session) - FORGOTTEN_AFTER
    ended = func.coalesce(reports.expires_at, reports.ended_at) < before
    await _delete(database, reports, before, ended, reports.status.in_(("EXPIRED", "FAILED", "CANCELLED")))
    await _delete(database, Notification, before - round(keep_days * 86_400_000))


async def _delete(database: Database, table: Any, made_before: int, *conditions: Any) -> None:
    """Delete by the id, which begins with the time at which it was made, because the id has an index."""
    some = select(table.id).where(table.id < clock.first_id(made_before), *conditions).order_by(table.id)
    some = some.limit(DELETED_AT_ONCE).with_for_update(skip_locked=True)  # without those that another process deletes
    found: Sequence[UUID] = [UUID(int=0)]
    while found:
        async with database.transaction() as session:
            found = (await session.scalars(some)).all()
            await session.execute(delete(table).where(table.id.in_(found)))
