"""The jobs that have no end yet, counted for metrics and readiness."""

import asyncio
import time
from uuid import UUID

import structlog
from sqlalchemy import and_, case, func, select

from contracts.base import JobState
from services.gateway.store.jobs import table
from shared.observability import metrics
from shared.persistence import clock
from shared.persistence.database import Database, is_outage

log = structlog.get_logger(__name__)

MEASURE_SECONDS = 10.0
MEASURE_SHARE = 0.05
"""Of the time, for counting, however many jobs there are to be looked at."""
LOOK_BACK_DAYS = 2
"""A job that has had no end for so long is no longer counted: it has been reported all that time."""
COMMIT_MS = 60_000
"""A job is committed so long after it got its id, at the most."""
STUCK_MINUTES = 15
"""A job that nobody has begun for so long is named in `/readyz`."""


class Unfinished:
    """The jobs that have no end yet: how many there are, and which nobody has begun for long."""

    def __init__(self) -> None:
        self._since: int | None = None
        self._stuck: str | None = None

    def concern(self) -> str | None:
        """That jobs are PENDING for long, such as after a message was lost with its queue; None while none is."""
        return self._stuck

    async def measure(self, database: Database) -> None:
        """Look now and then, for ever."""
        while True:
            began = time.monotonic()
            try:
                await self.look(database)
            except Exception as error:
                if not is_outage(error):
                    log.exception("cannot count the jobs")
            await asyncio.sleep(max(MEASURE_SECONDS, (time.monotonic() - began) / MEASURE_SHARE))

    async def look(self, database: Database) -> None:
        """Count the jobs without an end, beginning with the one that was the oldest at the last look.

        There is no index to find them by: a job's end would have to change it, and that would cost more than looking.
        But all before the oldest have an end, so a look begins there, and mostly that is a moment ago.
        """
        async with database.reading() as session:
            at = await clock.read(session)  # or one look by a clock that runs ahead would blind the next ones
            look_back = at - LOOK_BACK_DAYS * 86_400_000
            begin = UUID(int=max(0, (self._since or look_back) - COMMIT_MS) << 80)  # UUIDv7: the first of that time
            is_stuck = and_(table.c.status == JobState.PENDING, table.c.created_at < at - STUCK_MINUTES * 60_000)
            counts = (
                func.count().label("number"),
                func.min(table.c.created_at).label("oldest"),
                func.sum(case((is_stuck, 1), else_=0)).label("stuck"),
            )
            since = table.c.id >= begin, table.c.ended_at.is_(None)
            by_kind = select(table.c.kind, table.c.status, *counts).group_by(table.c.kind, table.c.status)
            rows = (await session.execute(by_kind.where(*since))).all()
            stuck, first = sum(row.stuck for row in rows), None
            if stuck:
                of_age = select(table.c.id, table.c.created_at).where(*since, is_stuck)
                first = (await session.execute(of_age.order_by(table.c.id).limit(1))).first()
        metrics.JOBS.clear()
        metrics.JOBS_OLDEST_SECONDS.clear()
        for row in sorted(rows, key=lambda row: row.oldest, reverse=True):  # so that the oldest of a kind stays
            metrics.JOBS.labels(row.kind, row.status).set(row.number)
            metrics.JOBS_OLDEST_SECONDS.labels(row.kind).set(max(0, at - row.oldest) / 1000)
        self._stuck = _told(stuck, *first) if first else None
        self._since = max(min([at, *(row.oldest for row in rows)]), look_back)


def _told(stuck: int, oldest: UUID, created_at: int) -> str:
    since = clock.moment(created_at).strftime("%Y-%m-%d %H:%M+00:00")
    return (
        f"{stuck:,} PENDING for more than {STUCK_MINUTES} minutes, the oldest since {since}: {oldest}. `malote logs"
        f" {oldest}` says how far it came. If nothing waits in the lanes (`malote lanes`), its message was lost with a"
        " queue or a binding (`malote topology apply` makes them): ask for it again"
    )
