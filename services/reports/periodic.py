"""What reports does by itself."""

from services.reports import store
from services.reports.settings import ReportsSettings
from services.reports.store import expired, news
from shared.messaging.outbox import Outbox
from shared.messaging.periodic import every
from shared.persistence.changes import POLL_SECONDS
from shared.persistence.database import Database


@every(POLL_SECONDS)
async def poll(database: Database) -> None:
    """Wake those who wait for news that other processes wrote."""
    await news.look(database)


@every(60)
async def tidy(database: Database, outbox: Outbox, settings: ReportsSettings) -> None:
    """Remove the files of reports that were kept for their time, and forget what ended long ago."""
    while await expire(outbox):
        pass
    await store.forget(database, settings.keep_days)


async def expire(outbox: Outbox) -> int:
    """Remove the files of some reports that were kept for their time; return how many. Call again until it is none."""
    async with outbox.unit() as unit:
        overdue = await store.overdue(unit.session)
        for report in overdue:
            unit.send(expired(report))
    return len(overdue)
