"""Deletes rows that are older than anybody asks for."""

from typing import Any

from sqlalchemy import func

from services.reports.store.notifications import Notification
from services.reports.store.reports import Report
from shared.persistence import clock
from shared.persistence.database import Database
from shared.persistence.retention import delete_old

FORGOTTEN_AFTER = 30 * 86_400_000
"""Milliseconds for which the row of a report is kept after its file is gone."""


async def forget(database: Database, keep_days: float) -> None:
    """Delete old reports and notifications. Ids begin with the time of their making, and have an index."""
    reports: Any = Report
    notifications: Any = Notification
    async with database.reading() as session:
        before = await clock.read(session) - FORGOTTEN_AFTER
    ended = func.coalesce(reports.expires_at, reports.ended_at) < before
    has_no_file = reports.status.in_(("EXPIRED", "FAILED", "CANCELLED"))
    await delete_old(database, reports, reports.id < clock.first_id(before), ended, has_no_file)
    long_ago = clock.first_id(before - round(keep_days * 86_400_000))
    await delete_old(database, notifications, notifications.id < long_ago)
