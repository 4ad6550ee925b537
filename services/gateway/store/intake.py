"""How wishes become jobs: those that come together share a transaction."""

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import func, insert, literal_column, select
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.base import Command, Envelope, JobKind, JobState
from contracts.reports import CreateReport
from services.gateway.domain import Key, kind_of
from services.gateway.store import jobs, keys
from services.gateway.store.keys import IdempotencyKey, Receipt
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
"""When it is worth asking for a report again: most are made in less."""


@dataclass(slots=True, eq=False)
class _Wish:
    receipt: Receipt
    job: dict[str, Any]
    command: Outgoing
    key: Key | None
    done: asyncio.Future[Receipt] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Intake:
    """Writes down what clients ask for. What arrives while a transaction runs shares the next one: the commit, which
    is most of the cost, is then paid once for all of them, and a lone request waits for nobody."""

    def __init__(self, outbox: Outbox, running_reports: int) -> None:
        self._outbox, self._running_reports = outbox, running_reports
        self._waiting: list[_Wish] = []
        self._work: asyncio.Task[None] | None = None

    async def start(
        self,
        command: Command,
        *,
        kind: JobKind,
        owner: str,
        role: str,
        resource_id: UUID | None,
        traceparent: str,
        key: Key | None,
    ) -> Receipt:
        """Make a command a job. Raises `Problem` 422 if its key came with another payload before, 429 if it wants a
        report and its owner has too many in the making, and `OutboxFull`."""
        self._outbox.demand_room()
        sent = outgoing(command, self._outbox.service, None, traceparent)
        receipt = Receipt(UUID(sent.envelope.message_id), resource_id)
        about = {f"{kind.resource}_id": str(resource_id)} if resource_id else {}
        structlog.contextvars.bind_contextvars(correlation_id=sent.envelope.correlation_id, **about)
        wish = _Wish(receipt, _new_job(receipt, kind.name, (owner, role), sent.envelope), sent, key)
        self._waiting.append(wish)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._write_all())
        return await asyncio.shield(wish.done)

    async def demand_room_for_report(self, owner: str) -> None:
        """Raises `Problem` 429 if somebody has too many reports in the making, before anything else is counted."""
        async with self._outbox.reading() as session:
            running = await _running(session, [owner])
        if running[owner] >= self._running_reports:
            raise _too_many(self._running_reports)

    async def _write_all(self) -> None:
        while self._waiting:
            some, self._waiting = self._waiting[:TAKE_AT_ONCE], self._waiting[TAKE_AT_ONCE:]
            try:
                with tracing.together("write jobs", [wish.command.envelope.traceparent for wish in some]):
                    outcomes = await self._write(some)
            except Exception as error:
                outcomes = dict.fromkeys(some, error)
            for wish, outcome in outcomes.items():
                if isinstance(outcome, Exception):
                    wish.done.set_exception(outcome)
                else:
                    wish.done.set_result(outcome)

    async def _write(self, wishes: Sequence[_Wish]) -> dict[_Wish, Receipt | Exception]:
        async with self._outbox.unit() as unit:
            refused = await _refusals(unit.session, wishes, self._running_reports)
            keyed = [wish for wish in wishes if wish.key and wish not in refused]
            outcomes = refused | await _claim(unit.session, keyed)
            new = [wish for wish in wishes if wish not in outcomes]
            if new:
                await unit.session.execute(insert(jobs.table), [wish.job for wish in new])
            unit.outgoing.extend(wish.command for wish in new)
        for wish in new:
            metrics.of(metrics.JOBS_STARTED, wish.job["kind"]).inc()
        return outcomes | {wish: wish.receipt for wish in new}


def _new_job(receipt: Receipt, kind: str, who: tuple[str, str], envelope: Envelope) -> dict[str, Any]:
    at = now()
    owner, role = who
    return {
        "id": receipt.job_id,
        "kind": kind,
        "owner": owner,
        "role": role,
        "resource_id": receipt.resource_id,
        "status": JobState.PENDING,
        "timeline": [jobs.line(envelope)],
        "revision": 1,
        "created_at": at,
        "updated_at": at,
    }


async def _refusals(
    session: AsyncSession, wishes: Sequence[_Wish], running_reports: int
) -> dict[_Wish, Receipt | Exception]:
    """The wishes for a report too many. One that came before, under the same key, is none."""
    wanted = [wish for wish in wishes if wish.job["kind"] == REPORT]
    if not wanted:
        return {}
    owners = {wish.job["owner"] for wish in wanted}
    await one_process_at_a_time(session, owners)
    running = await _running(session, owners)
    known = {row.id for row in await load(session, IdempotencyKey, [wish.key.id for wish in wanted if wish.key])}
    refused: dict[_Wish, Receipt | Exception] = {}
    for wish in wanted:
        if wish.key and wish.key.id in known:
            continue
        if running[wish.job["owner"]] >= running_reports:
            refused[wish] = _too_many(running_reports)
        else:
            running[wish.job["owner"]] += 1
            known |= {wish.key.id} if wish.key else set()
    return refused


async def _running(session: AsyncSession, owners: Collection[str]) -> Counter[str]:
    unfinished = select(jobs.table.c.owner, func.count().label("number")).where(
        jobs.table.c.owner.in_(sorted(owners)),
        jobs.table.c.kind == literal_column(f"'{REPORT}'"),  # spelt out, or the index of reports would not be used
        jobs.table.c.ended_at.is_(None),
    )
    return Counter({row.owner: row.number for row in await session.execute(unfinished.group_by(jobs.table.c.owner))})


def _too_many(running_reports: int) -> Problem:
    advice = "wait until one has ended, or cancel one (POST /v1/jobs/{id}/cancel)"
    detail = f"You have {running_reports} reports in the making, as many as you may: {advice}."
    return Problem(429, "too_many_reports", detail, headers={"Retry-After": COME_AGAIN_SECONDS})


async def _claim(session: AsyncSession, wishes: Sequence[_Wish]) -> dict[_Wish, Receipt | Exception]:
    """Write down the keys of wishes; return what becomes of those whose key was taken before, here or in a batch."""
    if not wishes:
        return {}
    first = {wish.key.id: wish for wish in reversed(wishes) if wish.key}
    # In one order in all processes, so that two of them with the same keys never wait for each other crosswise.
    rows = [_new_key(first[key_id]) for key_id in sorted(first)]
    insert_keys = INSERTS[session.get_bind().dialect.name](keys.table).values(created_at=clock.of_database(session))
    claim = insert_keys.on_conflict_do_nothing().returning(keys.table.c.id)
    claimed = set((await session.scalars(claim, rows)).all())
    taken = await load(session, IdempotencyKey, first.keys() - claimed)
    earlier = {row["id"]: row for row in rows if row["id"] in claimed} | {row.id: row.model_dump() for row in taken}
    return {
        wish: keys.again(wish.key, earlier.get(wish.key.id))
        for wish in wishes
        if wish.key and not (wish.key.id in claimed and first[wish.key.id] is wish)
    }


def _new_key(wish: _Wish) -> dict[str, Any]:
    assert wish.key
    ids = {"job_id": wish.receipt.job_id, "resource_id": wish.receipt.resource_id}
    return {"id": wish.key.id, "payload": wish.key.payload, **ids}
