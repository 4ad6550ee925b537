"""The unfinished jobs, counted for metrics and readiness."""

import time
from uuid import UUID

from sqlalchemy import and_, case, func, select

from contracts.base import JobState
from services.gateway.store.jobs import table
from shared.observability import metrics
from shared.persistence import clock
from shared.persistence.database import Database

MEASURE_SECONDS = 10.0
MEASURE_SHARE = 0.05
"""The largest share of time that goes into counting, however many jobs there are."""
LOOK_BACK_DAYS = 2
"""Age up to which an unfinished job is counted; it has been reported all that time."""
COMMIT_MS = 60_000
"""The longest time from a job's id to its commit."""
STUCK_MINUTES = 15
"""Age from which a job that nobody has begun is named in `/readyz`."""


class Unfinished:
    """The unfinished jobs: how many there are, and which nobody has begun for long."""

    name = "jobs"

    def __init__(self) -> None:
        self._since: int | None = None
        self._stuck: str | None = None
        self._rests_until = 0.0

    def concern(self) -> str | None:
        """Jobs that are PENDING for long, such as after a message was lost with its queue; None while none is."""
        return self._stuck

    async def measure(self, database: Database) -> None:
        """Count, unless the last count took so long that counting would exceed `MEASURE_SHARE`."""
        began = time.monotonic()
        if began >= self._rests_until:
            await self._count(database)
            self._rests_until = began + (time.monotonic() - began) / MEASURE_SHARE

    async def _count(self, database: Database) -> None:
        """Count the unfinished jobs, beginning with the one that was the oldest at the last count.

        No index finds them: each job's end would have to change it, which costs more than counting. All jobs before
        the oldest unfinished one have ended, so a count begins there, which is mostly a moment ago.
        """
        async with database.reading() as session:
            at = await clock.read(
                session
            )  # this process's clock may run ahead, which would hide jobs from the next count
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
        for row in sorted(rows, key=lambda row: row.oldest, reverse=True):  # the oldest of a kind comes last, and stays
            metrics.JOBS.labels(row.kind, row.status).set(row.number)
            metrics.JOBS_OLDEST_SECONDS.labels(row.kind).set(max(0, at - row.oldest) / 1000)
        self._stuck = _warning(stuck, *first) if first else None
        self._since = max(min([at, *(row.oldest for row in rows)]), look_back)


def _warning(stuck: int, oldest: UUID, created_at: int) -> str:
    since = clock.moment(created_at).strftime("%Y-%m-%d %H:%M+00:00")
    return (
        f"{stuck:,} PENDING for more than {STUCK_MINUTES} minutes, the oldest since {since}: {oldest}. `malote logs"
        f" {oldest}` says how far it came. If nothing waits in the lanes (`malote lanes`), its message was lost with a"
        " queue or a binding (`malote topology apply` makes them): ask for it again"
    )
