"""Jobs: their rows, their changes, and waiting for their end."""

import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, Column, event, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Field, SQLModel

from contracts.base import Envelope, JobState
from contracts.orders import PlaceOrder
from services.gateway.domain import Move, kind_of
from services.gateway.store import Base
from shared.http.edge import asked_to_wait
from shared.http.stopping import Stopping
from shared.observability import metrics
from shared.persistence.changes import Changes
from shared.persistence.clock import now
from shared.persistence.database import Database, among, load


class Job(Base, table=True):
    """What a client asked for. Times are epoch milliseconds; `revision` counts the changes.

    `role` is the owner's role in the request: a customer does not see the jobs that the same subject started as an
    operator. `resource_id` is the id of the order or the report that the job is about; `kind` says which of the two.
    `timeline` has the messages that moved the job: `at` in ISO 8601, `message`, `service`.
    """

    __tablename__ = "jobs"

    id: UUID = Field(primary_key=True)
    kind: str = Field(max_length=64)
    owner: str = Field(max_length=255)
    role: str = Field(default="customer", max_length=16)
    resource_id: UUID | None = None
    status: str = Field(max_length=16)
    progress: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    result: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    error: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    timeline: list[dict[str, str]] = Field(sa_column=Column(JSON, nullable=False))
    revision: int
    created_at: int = Field(sa_type=BigInteger)
    updated_at: int = Field(sa_type=BigInteger)
    ended_at: int | None = Field(default=None, sa_type=BigInteger)


table: Any = Job.__table__  # type: ignore[attr-defined]


def as_uuid(job_id: str) -> UUID | None:
    """The id of a job as the gateway gives it; None for an id that a shop made up in another form."""
    with suppress(ValueError):
        found = UUID(job_id)
        return found if str(found) == job_id else None  # inboxes compare text: another spelling is another message
    return None


async def load_jobs(session: AsyncSession, ids: Collection[str]) -> Iterable[SQLModel]:
    """The jobs of these ids that were started here."""
    return await load(session, Job, filter(None, map(as_uuid, ids)), lock=True)


async def job(session: AsyncSession, job_id: UUID) -> Job | None:
    """One job."""
    return next(iter(await load(session, Job, [job_id])), None)


def owned(customer: str | None, status: JobState | None) -> Any:
    """The jobs of one customer or of all, in one status or in any."""
    query: Any = select(Job)
    if customer is not None:
        query = query.where(table.c.owner == customer, table.c.role == "customer")
    return query.where(table.c.status == status) if status else query


async def job_that_placed(session: AsyncSession, order_id: UUID) -> Job | None:
    """The job by which an order was placed here."""
    placing = select(Job).where(table.c.resource_id == order_id, table.c.kind == kind_of(PlaceOrder).name)
    return (await session.scalars(placing)).first()


def apply(job: Job, move: Move, cause: Envelope) -> None:
    """Change a job as a message says."""
    job.status, job.updated_at, job.revision = move.status, now(), job.revision + 1
    job.progress = move.progress or job.progress
    job.result, job.error = move.result, move.error
    if move.is_milestone:
        job.timeline = [*job.timeline, line(cause)]
    if move.status.is_final:
        job.ended_at = job.updated_at


def line(envelope: Envelope) -> dict[str, str]:
    """A message in a job's timeline."""
    return {"at": envelope.sent_at.isoformat(), "message": envelope.key, "service": envelope.sender}


def count_end(session: AsyncSession, job: Job) -> None:
    """Count a job that has ended, once the session has committed."""
    ended: list[tuple[str, str, int]] | None = session.info.get("ended")
    if ended is None:
        ended = session.info["ended"] = []
        event.listen(session.sync_session, "after_commit", lambda _: _count_ended(ended), once=True)
    ended.append((job.kind, str(job.status), now() - job.created_at))


def _count_ended(ended: Iterable[tuple[str, str, int]]) -> None:
    for kind, status, milliseconds in ended:
        metrics.of(metrics.JOBS_ENDED, kind, status).inc()
        metrics.of(metrics.JOB_SECONDS, kind).observe(milliseconds / 1000)


# -- waiting ----------------------------------------------------------------------------------------------------------


async def _revisions(session: AsyncSession, ids: Collection[UUID]) -> dict[UUID, int]:
    rows = await session.execute(select(table.c.id, table.c.revision).where(among(session, table.c.id, ids)))
    return {row.id: row.revision for row in rows}


changes = Changes(_revisions)
"""The jobs that change: the lane announces them, and requests wait for them."""


async def ended(database: Database, job_id: UUID, seconds: float, stopping: Stopping) -> Job | None:
    """A job, as soon as it has ended. After so many seconds, and when this process begins to stop, the job as it is.
    None if the job does not exist."""
    deadline = time.monotonic() + seconds
    with changes.of(job_id) as changed:
        while True:
            changed.clear()  # before the look, so that no change during the look is missed
            async with database.reading() as session:
                found = await job(session, job_id)
            left = deadline - time.monotonic()
            if found is None or JobState(found.status).is_final or left <= 0 or stopping.has_begun:
                return found
            with suppress(TimeoutError), asked_to_wait():
                async with stopping.wait(left):
                    await changed.wait()
