"""The gateway's tables, its only SQL, and two things that keep it from asking more of the database than it must:

`Intake` lets requests that come together share a transaction; `Changes` lets clients wait without asking again.
"""

import asyncio
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import JSON, BigInteger, Column, delete, event, insert, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from contracts.base import Command, Envelope, JobState
from services.gateway.domain import Key, Move
from shared.clock import now
from shared.database import Database, Outage, is_outage, load
from shared.http import Problem
from shared.inbox import INSERTS
from shared.outbox import Outbox
from shared.publisher import Outgoing, outgoing

log = structlog.get_logger(__name__)

KEEP_KEYS_HOURS = 48
"""An idempotency key is good for at least 24 hours; nobody is hurt if it is for longer."""
PURGE_SECONDS = 60.0
PURGE_STEP = 500
POLL_SECONDS = 1.0
TAKE_AT_ONCE = 100


class Base(SQLModel, registry=registry()):
    """This service's own metadata."""


class Job(Base, table=True):
    """What a client asked for. Times are epoch milliseconds; `revision` counts the changes.

    `timeline` has the messages that moved it: `at` in ISO 8601, `message`, `service`.
    """

    __tablename__ = "jobs"

    id: UUID = Field(primary_key=True)
    kind: str = Field(max_length=64)
    owner: str = Field(max_length=255)
    order_id: UUID | None = None
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
    order_id: UUID | None = None
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


def owned(owner: str | None, status: JobState | None) -> Any:
    """The jobs of one owner or of all, in one status or in any."""
    query: Any = select(Job)
    if owner is not None:
        query = query.where(_jobs.c.owner == owner)
    return query.where(_jobs.c.status == status) if status else query


async def job_that_placed(session: AsyncSession, order_id: UUID) -> Job | None:
    """The job by which an order was placed here."""
    placing = select(Job).where(_jobs.c.order_id == order_id, _jobs.c.kind == "order.place")
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


async def forget_old_keys(session: AsyncSession) -> int:
    """Delete some old idempotency keys; return how many. Call again while it returns `PURGE_STEP`."""
    old = select(_keys.c.id).where(_keys.c.created_at < now() - KEEP_KEYS_HOURS * 3_600_000).limit(PURGE_STEP)
    ids = (await session.scalars(old)).all()
    await session.execute(delete(_keys).where(_keys.c.id.in_(ids)))
    return len(ids)


async def tidy(database: Database) -> None:
    """Forget old idempotency keys, now and then, for ever."""
    while True:
        await asyncio.sleep(PURGE_SECONDS)
        try:
            deleted = PURGE_STEP
            while deleted == PURGE_STEP:
                async with database.transaction() as session:
                    deleted = await forget_old_keys(session)
        except Exception as error:
            if not is_outage(error):
                log.exception("cannot forget old idempotency keys")


# -- taking wishes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Receipt:
    """The job that a wish became, or had become when it came before under the same key."""

    job_id: UUID
    order_id: UUID | None
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

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._waiting: list[_Wish] = []
        self._work: asyncio.Task[None] | None = None

    async def start(
        self, command: Command, *, kind: str, owner: str, order_id: UUID, traceparent: str, key: Key | None
    ) -> Receipt:
        """Make a command a job. Raises `Problem` 422 if its key came with another payload before."""
        sent = outgoing(command, self._outbox.service, None, traceparent)
        receipt = Receipt(UUID(sent.envelope.message_id), order_id)
        structlog.contextvars.bind_contextvars(correlation_id=sent.envelope.correlation_id)  # for the request's line
        wish = _Wish(receipt, _new_job(receipt, kind, owner, sent.envelope), sent, key)
        self._waiting.append(wish)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._write_all())
        return await asyncio.shield(wish.done)

    async def _write_all(self) -> None:
        while self._waiting:
            some, self._waiting = self._waiting[:TAKE_AT_ONCE], self._waiting[TAKE_AT_ONCE:]
            try:
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
            outcomes = await _claim(unit.session, [wish for wish in wishes if wish.key])
            new = [wish for wish in wishes if wish not in outcomes]
            if new:
                await unit.session.execute(insert(_jobs), [wish.job for wish in new])
            unit.outgoing.extend(wish.command for wish in new)
        return outcomes | {wish: wish.receipt for wish in new}


def _new_job(receipt: Receipt, kind: str, owner: str, envelope: Envelope) -> dict[str, Any]:
    at = now()
    return {
        "id": receipt.job_id,
        "kind": kind,
        "owner": owner,
        "order_id": receipt.order_id,
        "status": JobState.PENDING,
        "timeline": [_line(envelope)],
        "revision": 1,
        "created_at": at,
        "updated_at": at,
    }


async def _claim(session: AsyncSession, wishes: Sequence[_Wish]) -> dict[_Wish, Receipt | Exception]:
    """Write down the keys of wishes; return what becomes of those whose key was taken before, here or in a batch."""
    if not wishes:
        return {}
    first = {wish.key.id: wish for wish in reversed(wishes) if wish.key}
    # In one order in all processes, so that two of them with the same keys never wait for each other crosswise.
    rows = [_new_key(first[key_id]) for key_id in sorted(first)]
    claim = INSERTS[session.get_bind().dialect.name](_keys).on_conflict_do_nothing().returning(_keys.c.id)
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
    ids = {"job_id": wish.receipt.job_id, "order_id": wish.receipt.order_id}
    return {"id": wish.key.id, "payload": wish.key.payload, "created_at": now(), **ids}


def _again(key: Key, earlier: dict[str, Any] | None) -> Receipt | Exception:
    if earlier is None:
        return Outage("the idempotency key was being forgotten just now")
    if earlier["payload"] != key.payload:
        return Problem(422, "idempotency_key_reused", "This Idempotency-Key came with another request before.")
    return Receipt(earlier["job_id"], earlier["order_id"], is_replay=True)


# -- waiting ----------------------------------------------------------------------------------------------------------


class Changes:
    """Wakes those who wait for a job: at once when this process changed it, within a second when another did."""

    def __init__(self) -> None:
        self._waiting: dict[UUID, set[asyncio.Event]] = {}

    @contextmanager
    def of(self, job_id: UUID) -> Iterator[asyncio.Event]:
        """An event that is set when the job may have changed. Take it, then read the job, then wait."""
        changed = asyncio.Event()
        self._waiting.setdefault(job_id, set()).add(changed)
        try:
            yield changed
        finally:
            self._waiting[job_id].discard(changed)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    def announce(self, session: AsyncSession, job_id: UUID) -> None:
        """Wake those who wait for a job, once the session has committed."""
        if job_id in self._waiting:
            event.listen(session.sync_session, "after_commit", lambda _: self._wake(job_id), once=True)

    def _wake(self, job_id: UUID) -> None:
        for changed in self._waiting.get(job_id, ()):
            changed.set()

    async def poll(self, database: Database) -> None:
        """See what other processes changed, for ever: one query for all who wait, none while nobody does."""
        seen: dict[UUID, int] = {}
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if not self._waiting:
                continue
            try:
                async with database.reading() as session:
                    found = {row.id: row.revision for row in await load(session, Job, self._waiting)}
            except Exception as error:
                if not is_outage(error):
                    log.exception("cannot look for changes of jobs")
                continue
            for job_id, revision in found.items():
                if seen.get(job_id) != revision:
                    self._wake(job_id)
            seen = found


changes = Changes()
"""One for the process: its lane announces, its requests wait."""


async def ended(database: Database, job_id: UUID, seconds: float) -> Job | None:
    """A job, as soon as it has ended; after so many seconds as it is then. None if it does not exist."""
    deadline = time.monotonic() + seconds
    with changes.of(job_id) as changed:
        while True:
            async with database.reading() as session:
                found = await job(session, job_id)
            left = deadline - time.monotonic()
            if found is None or JobState(found.status).is_final or left <= 0:
                return found
            changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await changed.wait()
