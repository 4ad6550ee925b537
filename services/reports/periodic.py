"""What reports runs periodically."""

from services.reports.settings import ReportsSettings
from services.reports.store import reports, retention
from services.reports.store.notifications import news
from shared.messaging.outbox import Outbox
from shared.messaging.periodic import every
from shared.persistence.changes import POLL_SECONDS
from shared.persistence.database import Database


@every(POLL_SECONDS)
async def poll(database: Database) -> None:
    """Wake the requests that wait for notifications, when another process wrote one."""
    await news.look(database)


@every(60)
async def expire_and_forget(database: Database, outbox: Outbox, settings: ReportsSettings) -> None:
    """Expire the reports whose time is over, and delete old rows."""
    while await expire(outbox):
        pass
    await retention.forget(database, settings.keep_days)


async def expire(outbox: Outbox) -> int:
    """Expire some reports whose time is over; return their number. The caller repeats this until the number is 0."""
    async with outbox.unit() as unit:
        overdue = await reports.lock_overdue(unit.session)
        for report in overdue:
            unit.send(reports.expire(report))
    return len(overdue)
