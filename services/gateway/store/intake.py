"""How requests become jobs: requests that arrive together share a transaction."""

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import func, insert, literal_column, select
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.base import Command, JobKind, JobState
from contracts.reports import CreateReport
from services.gateway.domain import Key, kind_of
from services.gateway.store import jobs, keys
from services.gateway.store.keys import IdempotencyKey, Receipt
from shared.http.auth import Caller
from shared.http.problems import Problem
from shared.messaging.inbox import INSERTS
from shared.messaging.outbox import Outbox
from shared.messaging.publisher import Outgoing, outgoing
from shared.observability import metrics, tracing
from shared.persistence import clock
from shared.persistence.clock import now
from shared.persistence.database import load, one_process_at_a_time

TAKE_AT_ONCE = 100
REPORT = kind_of(CreateReport).name
COME_AGAIN_SECONDS = "10"
"""When to ask for a report again: most reports are made in less time."""


@dataclass(slots=True, eq=False)
class _Submission:
    """A command and the row of the job that it starts."""

    command: Outgoing
    job: dict[str, Any]
    key: Key | None
    done: asyncio.Future[Receipt] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def receipt(self) -> Receipt:
        return Receipt(self.job["id"], self.job["resource_id"])

    @property
    def key_row(self) -> dict[str, Any]:
        assert self.key
        job_id, resource_id = self.job["id"], self.job["resource_id"]
        return {"id": self.key.id, "payload": self.key.payload, "job_id": job_id, "resource_id": resource_id}


Outcomes = dict[_Submission, Receipt | Exception]


class Intake:
    """Writes down what clients submit. Submissions that arrive while a transaction runs share the next one, so they pay
    for one commit, which is most of the cost. A single submission waits for no other."""

    def __init__(self, outbox: Outbox, running_reports: int) -> None:
        self._outbox, self._running_reports = outbox, running_reports
        self._waiting: list[_Submission] = []
        self._work: asyncio.Task[None] | None = None

    async def start(
        self, command: Command, kind: JobKind, who: Caller, resource_id: UUID | None, traceparent: str, key: Key | None
    ) -> Receipt:
        """Make a command a job. Raises `Problem` 422 if its key came with another payload before, 429 if it asks for a
        report and its owner has too many in the making, and `OutboxFull`."""
        self._outbox.demand_room()
        sent = outgoing(command, self._outbox.service, None, traceparent)
        about = {f"{kind.resource}_id": str(resource_id)} if resource_id else {}
        structlog.contextvars.bind_contextvars(correlation_id=sent.envelope.correlation_id, **about)
        at = now()
        job = {
            "id": UUID(sent.envelope.message_id),
            "kind": kind.name,
            "owner": who.subject,
            "role": who.role,
            "resource_id": resource_id,
            "status": JobState.PENDING,
            "timeline": [jobs.line(sent.envelope)],
            "revision": 1,
            "created_at": at,
            "updated_at": at,
        }
        submission = _Submission(sent, job, key)
        self._waiting.append(submission)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._write_all())
        return await asyncio.shield(submission.done)

    async def demand_room_for_report(self, owner: str) -> None:
        """Raises `Problem` 429 if somebody has too many reports in the making."""
        async with self._outbox.reading() as session:
            running = await _running(session, [owner])
        if running[owner] >= self._running_reports:
            raise _too_many(self._running_reports)

    async def _write_all(self) -> None:
        while self._waiting:
            some, self._waiting = self._waiting[:TAKE_AT_ONCE], self._waiting[TAKE_AT_ONCE:]
            try:
                with tracing.together("write jobs", [one.command.envelope.traceparent for one in some]):
                    outcomes = await self._write(some)
            except Exception as error:
                outcomes = dict.fromkeys(some, error)
            for one, outcome in outcomes.items():
                if isinstance(outcome, Exception):
                    one.done.set_exception(outcome)
                else:
                    one.done.set_result(outcome)

    async def _write(self, some: Sequence[_Submission]) -> Outcomes:
        async with self._outbox.unit() as unit:
            refused = await _refusals(unit.session, some, self._running_reports)
            outcomes = refused | await _claim(unit.session, [one for one in some if one.key and one not in refused])
            new = [one for one in some if one not in outcomes]
            if new:
                await unit.session.execute(insert(jobs.table), [one.job for one in new])
            unit.outgoing.extend(one.command for one in new)
        for one in new:
            metrics.of(metrics.JOBS_STARTED, one.job["kind"]).inc()
        return outcomes | {one: one.receipt for one in new}


async def _refusals(session: AsyncSession, some: Sequence[_Submission], running_reports: int) -> Outcomes:
    """The requests for one report too many, except those that came before under the same key."""
    wanted = [one for one in some if one.job["kind"] == REPORT]
    if not wanted:
        return {}
    owners = {one.job["owner"] for one in wanted}
    await one_process_at_a_time(session, owners)
    running = await _running(session, owners)
    known = {row.id for row in await load(session, IdempotencyKey, [one.key.id for one in wanted if one.key])}
    refused: Outcomes = {}
    for one in wanted:
        if one.key and one.key.id in known:
            continue
        if running[one.job["owner"]] >= running_reports:
            refused[one] = _too_many(running_reports)
        else:
            running[one.job["owner"]] += 1
            known |= {one.key.id} if one.key else set()
    return refused


async def _running(session: AsyncSession, owners: Collection[str]) -> Counter[str]:
    unfinished = select(jobs.table.c.owner, func.count().label("number")).where(
        jobs.table.c.owner.in_(sorted(owners)),
        jobs.table.c.kind == literal_column(f"'{REPORT}'"),  # a parameter would hide it from the partial index
        jobs.table.c.ended_at.is_(None),
    )
    return Counter({row.owner: row.number for row in await session.execute(unfinished.group_by(jobs.table.c.owner))})


def _too_many(running_reports: int) -> Problem:
    advice = "wait until one has ended, or cancel one (POST /v1/jobs/{id}/cancel)"
    detail = f"You have {running_reports} reports in the making, as many as you may: {advice}."
    return Problem(429, "too_many_reports", detail, headers={"Retry-After": COME_AGAIN_SECONDS})


async def _claim(session: AsyncSession, keyed: Sequence[_Submission]) -> Outcomes:
    """Write down the keys of submissions; return the outcomes of those whose key was taken before, here or in a
    batch."""
    if not keyed:
        return {}
    first = {one.key.id: one for one in reversed(keyed) if one.key}
    # In the same order in all processes, so that they do not deadlock.
    rows = [first[key_id].key_row for key_id in sorted(first)]
    insert_keys = INSERTS[session.get_bind().dialect.name](keys.table).values(created_at=clock.of_database(session))
    claim = insert_keys.on_conflict_do_nothing().returning(keys.table.c.id)
    claimed = set((await session.scalars(claim, rows)).all())
    taken = await load(session, IdempotencyKey, first.keys() - claimed)
    earlier = {row["id"]: row for row in rows if row["id"] in claimed} | {row.id: row.model_dump() for row in taken}
    return {
        one: keys.again(one.key, earlier.get(one.key.id))
        for one in keyed
        if one.key and not (one.key.id in claimed and first[one.key.id] is one)
    }
