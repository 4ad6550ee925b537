"""The gateway's tables, its only SQL, and two things that keep it from asking more of the database than it must:

`Intake` lets requests that come together share a transaction; `changes` lets clients wait without asking again.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID

import structlog
from sqlalchemy import JSON, BigInteger, Column, and_, case, delete, event, func, insert, literal_column, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from contracts.base import Command, Envelope, JobState
from services.gateway import domain
from services.gateway.domain import Key, Move
from shared.http.auth import LEEWAY_SECONDS, Caller
from shared.http.edge import asked_to_wait
from shared.http.problems import Problem
from shared.http.stopping import Stopping
from shared.messaging.inbox import INSERTS
from shared.messaging.outbox import Outbox
from shared.messaging.publisher import Outgoing, outgoing
from shared.observability import metrics, tracing
from shared.persistence import clock
from shared.persistence.changes import Changes
from shared.persistence.clock import now
from shared.persistence.database import Database, Outage, among, is_outage, load, one_process_at_a_time
from shared.persistence.table import TableModel

log = structlog.get_logger(__name__)

KEEP_KEYS_HOURS = 48
"""An idempotency key is good for at least 24 hours; nobody is hurt if it is for longer."""
PURGE_SECONDS = 60.0
PURGE_STEP = 500
TAKE_AT_ONCE = 100
MEASURE_SECONDS = 10.0
MEASURE_SHARE = 0.05
"""Of the time, for counting, however many jobs there are to be looked at."""
LOOK_BACK_DAYS = 2
"""A job that has had no end for so long is no longer counted: it has been reported all that time."""
COMMIT_MS = 60_000
"""A job is committed so long after it got its id, at the most."""
STUCK_MINUTES = 15
"""A job that nobody has begun for so long is named in `/readyz`."""
REPORT = "report.create"
COME_AGAIN_SECONDS = "10"
"""When it is worth asking for a report again: most are made in less."""


class Base(TableModel, registry=registry()):
    """This service's own metadata."""


class Job(Base, table=True):
    """What a client asked for. Times are epoch milliseconds; `revision` counts the changes.

    `role` is the one in which its owner asked: as a customer, somebody does not see what it asked for as an operator.
    `resource_id` is the id of the order or the report that it is about: `kind` says which.
    `timeline` has the messages that moved it: `at` in ISO 8601, `message`, `service`.
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


class IdempotencyKey(Base, table=True):
    """What was answered to a key. `id` and `payload` are digests: see `domain.Key`."""

    __tablename__ = "idempotency_keys"

    id: str = Field(primary_key=True, max_length=64)
    payload: str = Field(max_length=64)
    job_id: UUID
    resource_id: UUID | None = None
    created_at: int = Field(sa_type=BigInteger)


metadata = Base.metadata
_jobs: Any = Job.__table__  # type: ignore[attr-defined]
_keys: Any = IdempotencyKey.__table__  # type: ignore[attr-defined]


def as_uuid(job_id: str) -> UUID | None:
    """A job's id as we give it; None for one that a shop made up in a form of its own."""
    with suppress(ValueError):
        found = UUID(job_id)
        return found if str(found) == job_id else None  # inboxes compare text: another spelling is another message
    return None


async def jobs(session: AsyncSession, ids: Collection[str]) -> Iterable[SQLModel]:
    """Those of the jobs that are ours."""
    return await load(session, Job, filter(None, map(as_uuid, ids)), lock=True)


async def job(session: AsyncSession, job_id: UUID) -> Job | None:
    """One job."""
    return next(iter(await load(session, Job, [job_id])), None)


def owned(customer: str | None, status: JobState | None) -> Any:
    """The jobs of one customer or of all, in one status or in any."""
    query: Any = select(Job)
    if customer is not None:
        query = query.where(_jobs.c.owner == customer, _jobs.c.role == "customer")
    return query.where(_jobs.c.status == status) if status else query


async def job_that_placed(session: AsyncSession, order_id: UUID) -> Job | None:
    """The job by which an order was placed here."""
    placing = select(Job).where(_jobs.c.resource_id == order_id, _jobs.c.kind == "order.place")
    return (await session.scalars(placing)).first()


def apply(job: Job, move: Move, cause: Envelope) -> None:
    """Change a job as a message says."""
    job.status, job.updated_at, job.revision = move.status, now(), job.revision + 1
    job.progress = move.progress or job.progress
    job.result, job.error = move.result, move.error
    if move.is_milestone:
        job.timeline = [*job.timeline, _line(cause)]
    if move.status.is_final:
        job.ended_at = job.updated_at


def _line(envelope: Envelope) -> dict[str, str]:
    return {"at": envelope.sent_at.isoformat(), "message": envelope.key, "service": envelope.sender}


async def forget_old_keys(session: AsyncSession, before: int) -> int:
    """Delete some idempotency keys from before that time; return how many. Call again while it returns `PURGE_STEP`."""
    old = select(_keys.c.id).where(_keys.c.created_at < before).limit(PURGE_STEP)
    ids = (await session.scalars(old.with_for_update(skip_locked=True))).all()  # not what another process is at
    await session.execute(delete(_keys).where(_keys.c.id.in_(ids)))
    return len(ids)


async def tidy(database: Database) -> None:
    """Forget old idempotency keys, now and then, for ever."""
    while True:
        await asyncio.sleep(PURGE_SECONDS)
        try:
            async with database.reading() as session:
                before = await clock.old_enough(session, _keys.c.created_at, KEEP_KEYS_HOURS * 3600, PURGE_SECONDS)
            deleted = PURGE_STEP
            while deleted == PURGE_STEP:
                async with database.transaction() as session:
                    deleted = await forget_old_keys(session, before)
        except Exception as error:
            if not is_outage(error):
                log.exception("cannot forget old idempotency keys")


# -- measuring --------------------------------------------------------------------------------------------------------


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
            is_stuck = and_(_jobs.c.status == JobState.PENDING, _jobs.c.created_at < at - STUCK_MINUTES * 60_000)
            counts = (
                func.count().label("number"),
                func.min(_jobs.c.created_at).label("oldest"),
                func.sum(case((is_stuck, 1), else_=0)).label("stuck"),
            )
            since = _jobs.c.id >= begin, _jobs.c.ended_at.is_(None)
            by_kind = select(_jobs.c.kind, _jobs.c.status, *counts).group_by(_jobs.c.kind, _jobs.c.status)
            rows = (await session.execute(by_kind.where(*since))).all()
            stuck, first = sum(row.stuck for row in rows), None
            if stuck:
                of_age = select(_jobs.c.id, _jobs.c.created_at).where(*since, is_stuck)
                first = (await session.execute(of_age.order_by(_jobs.c.id).limit(1))).first()
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


def tell_end(session: AsyncSession, job: Job) -> None:
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


# -- taking wishes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Receipt:
    """The job that a wish became, or had become when it came before under the same key."""

    job_id: UUID
    resource_id: UUID | None
    is_replay: bool = False


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
        kind: str,
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
        about = {f"{domain.resource(kind)}_id": str(resource_id)} if resource_id else {}
        structlog.contextvars.bind_contextvars(correlation_id=sent.envelope.correlation_id, **about)
        wish = _Wish(receipt, _new_job(receipt, kind, (owner, role), sent.envelope), sent, key)
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
                await unit.session.execute(insert(_jobs), [wish.job for wish in new])
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
        "timeline": [_line(envelope)],
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
    unfinished = select(_jobs.c.owner, func.count().label("number")).where(
        _jobs.c.owner.in_(sorted(owners)),
        _jobs.c.kind == literal_column(f"'{REPORT}'"),  # spelt out, or the index of reports would not be used
        _jobs.c.ended_at.is_(None),
    )
    return Counter({row.owner: row.number for row in await session.execute(unfinished.group_by(_jobs.c.owner))})


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
    insert_keys = INSERTS[session.get_bind().dialect.name](_keys).values(created_at=clock.of_database(session))
    claim = insert_keys.on_conflict_do_nothing().returning(_keys.c.id)
    claimed = set((await session.scalars(claim, rows)).all())
    taken = await load(session, IdempotencyKey, first.keys() - claimed)
    earlier = {row["id"]: row for row in rows if row["id"] in claimed} | {row.id: row.model_dump() for row in taken}
    return {
        wish: _again(wish.key, earlier.get(wish.key.id))
        for wish in wishes
        if wish.key and not (wish.key.id in claimed and first[wish.key.id] is wish)
    }


def _new_key(wish: _Wish) -> dict[str, Any]:
    assert wish.key
    ids = {"job_id": wish.receipt.job_id, "resource_id": wish.receipt.resource_id}
    return {"id": wish.key.id, "payload": wish.key.payload, **ids}


def _again(key: Key, earlier: dict[str, Any] | None) -> Receipt | Exception:
    if earlier is None:
        return Outage("the idempotency key was being forgotten just now")
    if earlier["payload"] != key.payload:
        return Problem(422, "idempotency_key_reused", "This Idempotency-Key came with another request before.")
    return Receipt(earlier["job_id"], earlier["resource_id"], is_replay=True)


async def earlier(database: Database, key: Key) -> Receipt | None:
    """What was answered to a key, if it came before. Raises `Problem` 422 if that was with another payload."""
    async with database.reading() as session:
        found = await load(session, IdempotencyKey, [key.id])
    outcome = _again(key, found[0].model_dump()) if found else None
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


# -- waiting ----------------------------------------------------------------------------------------------------------


async def _revisions(session: AsyncSession, ids: Collection[UUID]) -> dict[UUID, int]:
    rows = await session.execute(select(_jobs.c.id, _jobs.c.revision).where(among(session, _jobs.c.id, ids)))
    return {row.id: row.revision for row in rows}


changes = Changes(_revisions)
"""One for the process, by job: its lane announces, its requests wait."""


async def ended(database: Database, job_id: UUID, seconds: float, stopping: Stopping) -> Job | None:
    """A job, as soon as it has ended; after so many seconds, or when this process is about to stop, as it is then.
    None if it does not exist."""
    deadline = time.monotonic() + seconds
    with changes.of(job_id) as changed:
        while True:
            changed.clear()  # first: what happens while we look has to be seen, too
            async with database.reading() as session:
                found = await job(session, job_id)
            left = deadline - time.monotonic()
            if found is None or JobState(found.status).is_final or left <= 0 or stopping.has_begun:
                return found
            with suppress(TimeoutError), asked_to_wait():
                async with stopping.wait(left):
                    await changed.wait()


# -- tokens that are not believed any more ----------------------------------------------------------------------------

LOOK_SECONDS = 2.0
"""How long another gateway may still believe what was revoked at one."""
DAY = 86_400_000
LISTED = 1_000
_LATER = ("before", "until")


class Revocation(Base, table=True):
    """What is not believed. `id` is `token ID` or `subject NAME`; of a subject, tokens that were issued before `before`
    (epoch milliseconds). Forgotten at `until`: no token of before is good by then."""

    __tablename__ = "revocations"

    id: str = Field(primary_key=True, max_length=264)
    before: int = Field(sa_type=BigInteger)
    by: str = Field(max_length=255)
    at: int = Field(sa_type=BigInteger)
    until: int = Field(sa_type=BigInteger)


class Revoked:
    """What this process knows of them."""

    def __init__(self) -> None:
        self._before: dict[str, int] | None = None  # None: not read yet

    async def read(self, session: AsyncSession) -> None:
        """Read all of them: a revocation may change a row, and become visible after a later one."""
        rows = await session.execute(select(Revocation.id, Revocation.before))  # type: ignore[call-overload]
        self._before = {row.id: row.before for row in rows}

    async def look(self, database: Database) -> None:
        """Look again and again, for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look_once(database)

    async def look_once(self, database: Database) -> None:
        """Read what there is, and forget what has had its time. Without a database, what was known stays known."""
        overdue: Any = Revocation.until
        try:
            async with database.reading() as session:
                await self.read(session)
                is_overdue = await session.scalar(select(func.min(overdue) < clock.of_database(session)))
            if is_overdue:
                async with database.transaction() as session:
                    await session.execute(delete(Revocation).where(overdue < clock.of_database(session)))
        except Exception as error:
            if not is_outage(error):
                log.exception("cannot read which tokens are revoked")

    def demand_good(self, who: Caller) -> None:
        """Raises `Problem` 401 for a token that is revoked, and 503 until it is known which are."""
        if self._before is None:
            raise Problem(503, "unavailable", "It is not known yet which tokens are revoked; try again.")
        if not self.is_good(who):
            raise Problem(401, "token_revoked", "The token was revoked: get another one.")

    def is_good(self, who: Caller) -> bool:
        """Whether a token is not revoked, as far as it is known: what goes on asks this again and again."""
        before = self._before or {}
        is_revoked = who.token_id is not None and f"token {who.token_id}" in before
        return not is_revoked and who.issued_at * 1000 >= before.get(f"subject {who.subject}", 0)


async def revoke(session: AsyncSession, id_: str, by: str, before: int | None, days: float) -> Revocation:
    """Write down what is not believed any more, until no token of before can be good, which is so many days.

    `before` is when tokens were issued, in epoch milliseconds. Without one it is now, and some seconds more, because an
    issuer's clock may run ahead. What was said before is never taken back: the later time stays."""
    at = await clock.read(session)
    latest = at + LEEWAY_SECONDS * 1000
    wanted = Revocation(
        id=id_,
        before=latest if before is None else max(0, min(before, latest)),
        by=by,
        at=at,
        until=at + round((days + 1) * DAY),
    )
    adding: Any = INSERTS[session.get_bind().dialect.name](Revocation).values(**wanted.model_dump())
    new, old = adding.excluded, cast(Any, Revocation)
    later = {name: case((new[name] > getattr(old, name), new[name]), else_=getattr(old, name)) for name in _LATER}
    await session.execute(
        adding.on_conflict_do_update(index_elements=["id"], set_={"by": new.by, "at": new.at, **later})
    )
    return (await session.scalars(select(Revocation).where(old.id == id_))).one()


async def revocations(session: AsyncSession) -> Sequence[Revocation]:
    """The newest of them."""
    newest = select(Revocation).order_by(Revocation.at.desc()).limit(LISTED)  # type: ignore[attr-defined]
    return (await session.scalars(newest)).all()
