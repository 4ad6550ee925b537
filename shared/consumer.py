"""Lanes: what arrived is decoded, claimed, loaded, handled, committed and acknowledged as one batch.

Read `Lane._commit` first: it is the happy path. The rest of the class is what happens when something fails.
"""

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import ModuleType
from typing import Any, TypeVar

import aio_pika
import structlog
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import SQLModel

from contracts.base import Command, Envelope, Message
from contracts.flow import BY_KEY, FLOW, SENDERS, SHOP, service_of
from contracts.jobs import JobFailed, JobRetrying
from shared import inbox, retry, telemetry, wire
from shared.database import Backoff, Outage, is_outage
from shared.outbox import Outbox
from shared.publisher import Properties, Publisher, is_cancelled
from shared.retry import Poison
from shared.settings import seconds
from shared.unit import UnitOfWork

log = structlog.get_logger(__name__)

LONE_ATTEMPTS = 3
"""A message that was tried alone this often, each time by a process that died of it, goes to the dead letters."""

Loader = Callable[[AsyncSession, Sequence[Any]], Awaitable[Iterable[SQLModel]]]
JobLoader = Callable[[AsyncSession, Collection[str]], Awaitable[Iterable[SQLModel]]]
Replies = Message | Sequence[Message] | None
Handle = TypeVar("Handle", bound=Callable[..., Awaitable[Replies]])
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Handler:
    """What to do with a message; see `on`."""

    contract: type[Message]
    call: Callable[[Any, UnitOfWork], Awaitable[Replies]]
    loads: Loader | None
    concurrency: int
    loads_jobs: JobLoader | None = None


def on(
    *contracts: type[Message], loads: Loader | None = None, loads_jobs: JobLoader | None = None, concurrency: int = 0
) -> Callable[[Handle], Handle]:
    """Declare a handler: `async def on_<message>(message, unit: Unit)` that returns the messages that follow.

    `loads(session, messages)` returns all rows that a batch of such messages will touch; the handler finds them with
    `unit.get`. Handlers that lock the same tables share one loader, which then locks for all of them in one order.
    `loads_jobs(session, ids)` does the same, given the ids of the jobs that the messages move.

    With `concurrency`, the lane runs its messages each by itself, so many at a time, for work outside the database:
    the attempt and the loaded rows are committed before the handler is called, and what it changed in them after it.
    No transaction is open meanwhile: such a handler has its rows and no session.

    It may raise `NotYet` (tried again later), `Poison` (dead-lettered at once); anything else is tried again.
    """

    def declare(call: Handle) -> Handle:
        found = [Handler(contract, call, loads, concurrency, loads_jobs) for contract in contracts]
        call.handlers = found  # type: ignore[attr-defined]
        return call

    return declare


def lanes_of(service: str, module: ModuleType) -> dict[str, dict[str, Handler]]:
    """The handlers of a module by lane and key, as `contracts.flow` sends them. Raises ValueError on a mismatch."""
    found: dict[str, dict[str, Handler]] = {}
    for handler in (h for f in vars(module).values() for h in getattr(f, "handlers", ()) if callable(f)):
        lanes = [lane for lane in FLOW.get(handler.contract, ()) if service_of(lane) == service]
        if not lanes:
            raise ValueError(f"contracts/flow.py sends {handler.contract.__name__} to no lane of {service!r}")
        for lane in lanes:
            found.setdefault(lane, {})[handler.contract.key] = handler
    for lane, handlers in found.items():
        if len({handler.concurrency for handler in handlers.values()}) > 1:
            raise ValueError(f"the handlers of lane {lane!r} differ in concurrency")
    return found


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as it was delivered, read and matched with its handler."""

    raw: aio_pika.abc.AbstractIncomingMessage
    envelope: Envelope
    message: Message
    handler: Handler


class Lost(Exception):
    """The channel of a delivery is gone: it can no longer be acknowledged, and the broker delivers it again."""


class Busy(Exception):
    """A living process is trying the same message at this moment."""


class Lane:
    """A queue's consumer: takes what FastStream's subscriber is given, and answers for it."""

    def __init__(
        self,
        name: str,
        handlers: dict[str, Handler],
        outbox: Outbox,
        publisher: Publisher,
        ladder: Sequence[str],
        batch_limit: int,
        version: str,
    ) -> None:
        self.name, self.handlers = name, handlers
        self.paused: str | None = None
        """Why the lane waits for its database or broker; None while it works."""
        self.concurrency = next(iter(handlers.values())).concurrency
        self.prefetch = 2 * (self.concurrency or batch_limit)
        self._outbox, self._publisher, self._ladder = outbox, publisher, ladder
        self._batch_limit, self._version = batch_limit, version
        self._taken: deque[aio_pika.abc.AbstractIncomingMessage] = deque()
        self._arrived = asyncio.Event()
        self._stopping = False
        self._slots = asyncio.Semaphore(self.concurrency or 1)
        self._in_flight: dict[str, asyncio.Event] = {}

    async def take(self, raw: aio_pika.abc.AbstractIncomingMessage) -> None:
        """Receive a delivery. It is acknowledged when its outcome is committed."""
        self._taken.append(raw)
        self._arrived.set()

    def stop(self) -> None:
        """Let `run` return once all that was taken has an outcome."""
        self._stopping = True
        self._arrived.set()

    async def run(self) -> None:
        """Work, until stopped. An error of the kernel's own is logged, and the deliveries are tried again."""
        backoff = Backoff()
        async with asyncio.TaskGroup() as group:
            while self._taken or not self._stopping:
                await self._arrived.wait()
                some = [self._taken.popleft() for _ in range(min(len(self._taken), self._room()))]
                if not self._taken and not self._stopping:
                    self._arrived.clear()
                try:
                    if not self.concurrency:
                        await self._batch(some)
                        backoff.reset()
                        continue
                    for raw in some:
                        await self._slots.acquire()
                        group.create_task(self._single(raw)).add_done_callback(lambda _: self._slots.release())
                except Lost:
                    log.info("lane: the broker will deliver again what it took back", lane=self.name)
                    self._taken.extendleft(raw for raw in reversed(some) if not _is_lost(raw))  # of a new channel
                    self._arrived.set()
                except Exception:
                    log.exception("lane: cannot settle a batch, trying again", lane=self.name)
                    self._taken.extendleft(reversed(some))
                    self._arrived.set()
                    await backoff.wait()

    def _room(self) -> int:
        return self.concurrency or self._batch_limit

    # -- a batch ------------------------------------------------------------------------------------------------

    async def _batch(self, raws: Sequence[aio_pika.abc.AbstractIncomingMessage]) -> None:
        if not raws:
            return
        started = time.perf_counter()
        readable = [delivery for raw in raws if (delivery := await self._read(raw))]
        for is_suspect, group in itertools.groupby(readable, lambda delivery: bool(delivery.raw.redelivered)):
            await (self._run_suspects if is_suspect else self._run)(list(group))
        await self._acknowledge(raws[-1], multiple=True)
        telemetry.BATCH_SIZE.labels(self.name).observe(len(raws))
        telemetry.BATCH_SECONDS.labels(self.name).observe(time.perf_counter() - started)

    async def _run(self, deliveries: Sequence[Delivery]) -> None:
        """Commit a batch. If it fails, halve it: what fails by itself counts an attempt, and nothing else does."""
        try:
            await self._steadily(deliveries[0].raw, self._commit, deliveries)
        except Lost:
            raise
        except Exception as error:
            if len(deliveries) == 1:
                await self._steadily(deliveries[0].raw, self._fail, deliveries[0], error)
                return
            middle = len(deliveries) // 2
            await self._run(deliveries[:middle])
            await self._run(deliveries[middle:])

    async def _commit(self, deliveries: Sequence[Delivery]) -> None:
        """The algorithm: claim, load, handle, write, commit - one transaction for all."""
        first = {delivery.envelope.message_id: delivery for delivery in reversed(deliveries)}
        async with self._outbox.unit() as unit:
            new = await inbox.claim(unit.session, self.name, first)
            todo = [d for d in deliveries if d.envelope.message_id in new and first[d.envelope.message_id] is d]
            await self._load(unit, todo)
            for delivery in todo:
                unit.cause = delivery.envelope
                _send(unit, await delivery.handler.call(delivery.message, unit))
            if deliveries[0].raw.redelivered:
                await inbox.end_attempt(unit.session, self.name, list(first))
        for delivery in todo:
            self._tell("done", delivery.envelope)
        self._count_duplicates(len(deliveries) - len(todo))

    async def _load(self, unit: UnitOfWork, deliveries: Sequence[Delivery]) -> None:
        messages: dict[Loader, list[Message]] = {}
        jobs: dict[JobLoader, set[str]] = {}
        for delivery in deliveries:
            handler, message = delivery.handler, delivery.message
            if handler.loads:
                messages.setdefault(handler.loads, []).append(message)
            if handler.loads_jobs:
                jobs.setdefault(handler.loads_jobs, set()).update(message.job_states(delivery.envelope.correlation_id))
        for loads, batch in messages.items():
            unit.know(await loads(unit.session, batch))
        for loads_jobs, ids in jobs.items():
            unit.know(await loads_jobs(unit.session, ids))

    async def _run_suspects(self, deliveries: Sequence[Delivery]) -> None:
        """What comes again may have killed its process: write the attempt down first, then run it alone.

        The killer is then found by its own attempts, and its neighbours are not blamed for having been near it.
        """
        ids = [delivery.envelope.message_id for delivery in deliveries]
        done = await self._steadily(deliveries[0].raw, self._done, ids)
        self._count_duplicates(sum(id_ in done for id_ in ids))
        for delivery in deliveries:
            if delivery.envelope.message_id in done:
                continue
            attempts = await self._steadily(delivery.raw, self._begin_alone, delivery)
            if attempts > LONE_ATTEMPTS:
                killer = Poison(f"its process died each of the {LONE_ATTEMPTS} times that it was handled alone")
                await self._steadily(delivery.raw, self._fail, delivery, killer)
            else:
                await self._run([delivery])

    async def _done(self, ids: Sequence[str]) -> set[str]:
        async with self._outbox.unit() as unit:
            return await inbox.done(unit.session, self.name, ids)

    async def _begin_alone(self, delivery: Delivery) -> int:
        async with self._outbox.unit() as unit:
            message_id = delivery.envelope.message_id
            return (await inbox.begin_attempt(unit.session, self.name, message_id, self._outbox.owner))[0]

    # -- work outside the database ------------------------------------------------------------------------------

    async def _single(self, raw: aio_pika.abc.AbstractIncomingMessage) -> None:
        try:
            delivery = await self._read(raw)
            if delivery:
                await self._one_at_a_time(delivery)
            await self._acknowledge(raw)
        except Lost:
            log.info("lane: the broker will deliver again what it took back", lane=self.name)
        except Exception:
            log.exception("lane: cannot settle a message, trying again", lane=self.name)
            await Backoff().wait()
            await self.take(raw)

    async def _one_at_a_time(self, delivery: Delivery) -> None:
        """Run a message, unless this process is at a copy of it: then after that, to find that it is done."""
        message_id = delivery.envelope.message_id
        while busy := self._in_flight.get(message_id):
            await busy.wait()
        mine = self._in_flight[message_id] = asyncio.Event()
        try:
            await self._steadily(delivery.raw, self._outside, delivery)
        except Lost:
            raise
        except Exception as error:
            await self._steadily(delivery.raw, self._fail, delivery, error)
        finally:
            del self._in_flight[message_id]
            mine.set()

    async def _outside(self, delivery: Delivery) -> None:
        message_id = delivery.envelope.message_id
        async with self._outbox.unit() as unit:
            # First lock, then look: whoever is at it records both in one transaction.
            attempts, before = await inbox.begin_attempt(unit.session, self.name, message_id, self._outbox.owner)
            if await inbox.done(unit.session, self.name, [message_id]):
                await inbox.end_attempt(unit.session, self.name, [message_id])
                self._count_duplicates(1)
                return
            if before and await self._outbox.is_living(unit.session, before):
                raise Busy(f"process {before} is at it")
            if attempts > LONE_ATTEMPTS:
                raise Poison(f"its process died each of the {LONE_ATTEMPTS} times that it was handled")
            await self._load(unit, [delivery])
        unit.close()
        unit.cause = delivery.envelope
        unit.outgoing.clear()
        replies = await delivery.handler.call(delivery.message, unit)
        await self._steadily(None, self._record, delivery, unit, replies)  # done is done, acknowledged or not
        self._tell("done", delivery.envelope)

    async def _record(self, delivery: Delivery, work: UnitOfWork, replies: Replies) -> None:
        async with self._outbox.unit() as unit:
            await inbox.claim(unit.session, self.name, [delivery.envelope.message_id])
            await inbox.end_attempt(unit.session, self.name, [delivery.envelope.message_id])
            work.reopen(unit.session)
            unit.cause = delivery.envelope
            _send(unit, replies)

    # -- failures -----------------------------------------------------------------------------------------------

    async def _steadily(
        self, raw: aio_pika.abc.AbstractIncomingMessage | None, step: Callable[..., Awaitable[T]], *arguments: Any
    ) -> T:
        """Do a step. While the database or the broker is gone the lane pauses, and no attempt is counted.

        Raises `Lost` once the broker has taken the delivery `raw` back; without one, goes on until the step is done.
        """
        backoff = Backoff()
        while True:
            try:
                result = await step(*arguments)
            except asyncio.CancelledError as error:
                if is_cancelled(error):
                    raise
                raise RuntimeError("something that it waited for was cancelled") from error
            except Exception as error:
                if not is_outage(error):
                    raise
                if self.paused is None:
                    log.warning("lane: paused", lane=self.name, why=str(error).splitlines()[0])
                self.paused = str(error).splitlines()[0]
                telemetry.LANE_PAUSED.labels(self.name).set(1)
                await backoff.wait()
                if raw and _is_lost(raw):
                    raise Lost from error
                continue
            if self.paused is not None:
                log.info("lane: resumed", lane=self.name)
                self.paused = None
                telemetry.LANE_PAUSED.labels(self.name).set(0)
            return result

    async def _fail(self, delivery: Delivery, error: Exception) -> None:
        """Send a failed message to the next retry queue, or after the last to the dead letters."""
        envelope = delivery.envelope
        is_own_command = isinstance(delivery.message, Command) and envelope.message_id == envelope.correlation_id
        if isinstance(error, Busy):
            await self._forward(delivery.raw, envelope, f"retry.{self._ladder[0]}", {"attempt": envelope.attempt})
            return
        follow: Message
        if isinstance(error, Poison) or envelope.attempt > len(self._ladder):
            reason = str(error) if isinstance(error, Poison) else f"failed {envelope.attempt} times"
            await self._dead_letter(delivery.raw, envelope, reason, error)
            follow = JobFailed(reason="dead_lettered", detail=" ".join(retry.reason_of(error).split())[:500])
        else:
            step = self._ladder[envelope.attempt - 1]
            headers = self._failure(delivery.raw, envelope, f"failed {envelope.attempt} times", error)
            await self._forward(delivery.raw, envelope, f"retry.{step}", headers | {"attempt": envelope.attempt + 1})
            self._tell("retried", envelope, error=retry.reason_of(error), retry_in=step)
            follow = JobRetrying(attempt=envelope.attempt, retry_in=seconds(step))
        async with self._outbox.unit() as unit:
            await inbox.end_attempt(unit.session, self.name, [envelope.message_id])
            if is_own_command:
                unit.cause = envelope
                unit.send(follow)

    async def _dead_letter(
        self,
        raw: aio_pika.abc.AbstractIncomingMessage,
        envelope: Envelope | None,
        reason: str,
        error: BaseException,
    ) -> None:
        await self._forward(raw, envelope, "dead-letters", self._failure(raw, envelope, reason, error))
        self._tell("dead_lettered", envelope, reason=reason, error=retry.reason_of(error), message_id=raw.message_id)

    def _failure(
        self, raw: aio_pika.abc.AbstractIncomingMessage, envelope: Envelope | None, reason: str, error: BaseException
    ) -> dict[str, Any]:
        attempt = envelope.attempt if envelope else 1
        return retry.failure_headers(dict(raw.headers), reason, error, attempt, service_of(self.name), self._version)

    async def _forward(
        self, raw: aio_pika.abc.AbstractIncomingMessage, envelope: Envelope | None, exchange: str, more: dict[str, Any]
    ) -> None:
        """Publish a message's copy under the lane's name, confirmed, with its own properties and more headers."""
        copied = Properties(
            message_id=envelope.message_id if envelope else raw.message_id,
            correlation_id=envelope.correlation_id if envelope else raw.correlation_id,
            message_type=envelope.key if envelope else _key_of(raw),
            app_id=raw.app_id,
            timestamp=raw.timestamp,
            content_type=raw.content_type or "application/json",
            delivery_mode=2,
            headers=retry.sendable(dict(raw.headers)) | more,
        )
        await self._publisher.forward(raw.body, exchange, self.name, copied)

    # -- one message --------------------------------------------------------------------------------------------

    async def _read(self, raw: aio_pika.abc.AbstractIncomingMessage) -> Delivery | None:
        """Read a delivery, or dead-letter at once what nobody can read."""
        if _is_lost(raw):
            raise Lost
        try:
            if problem := wire.problem_of(raw.headers):
                raise Poison(f"its properties or headers cannot be read: {problem}")
            return self._decode(raw)
        except Poison as poison:
            cause = poison.__cause__ or poison
            await self._steadily(raw, self._dead_letter, raw, None, str(poison), cause)
            return None

    def _decode(self, raw: aio_pika.abc.AbstractIncomingMessage) -> Delivery:
        key = _key_of(raw)
        contract = BY_KEY.get(key)
        if contract is None:
            raise Poison(f"unknown message {key!r}: no contract has this name and version")
        handler = self.handlers.get(key)
        if handler is None:
            raise Poison(f"{key!r} is not for lane {self.name!r}: contracts/flow.py sends it elsewhere")
        try:
            message = contract.read(raw.body)
        except ValidationError as error:
            what = "not JSON" if error.errors()[0]["type"] == "json_invalid" else f"not a valid {key}"
            raise Poison(f"{what}: {retry.reason_of(error)}") from error
        message_id = raw.message_id or message.identity()
        if not message_id:
            raise Poison(f"no message_id: a {key} cannot be told from its copies without one")
        if "\x00" in message_id + (raw.correlation_id or ""):
            raise Poison("a NUL character in message_id or correlation_id: no database stores it")
        # A shop cannot speak for a job that is not its own: what it sends starts one.
        starts_a_job = isinstance(message, Command) and SHOP in SENDERS[type(message)]
        headers = raw.headers
        envelope = Envelope(
            message_id=message_id,
            correlation_id=message_id if starts_a_job else raw.correlation_id or message_id,
            causation_id=str(headers.get("causation_id") or "") or None,
            key=key,
            sender=raw.app_id or "",
            sent_at=_sent_at(raw),
            traceparent=str(headers.get("traceparent") or "") or None,
            attempt=_attempt_of(raw),
        )
        return Delivery(raw, envelope, message, handler)

    async def _acknowledge(self, raw: aio_pika.abc.AbstractIncomingMessage, *, multiple: bool = False) -> None:
        """Best effort: what cannot be acknowledged is delivered again and found in the inbox."""
        try:
            await raw.channel.basic_ack(raw.delivery_tag or 0, multiple=multiple, wait=False)
        except (aio_pika.exceptions.AMQPError, ConnectionError, RuntimeError) as error:
            raise Lost from error

    def _tell(self, outcome: str, envelope: Envelope | None, **more: Any) -> None:
        key = envelope.key if envelope else "unreadable"
        telemetry.MESSAGES.labels(self.name, key, outcome).inc()
        if envelope:
            more |= {"message_id": envelope.message_id, "correlation_id": envelope.correlation_id}
            more |= {"attempt": envelope.attempt}
        (log.info if outcome == "done" else log.warning)(outcome, lane=self.name, message=key, **more)

    def _count_duplicates(self, number: int) -> None:
        if number:
            telemetry.MESSAGES.labels(self.name, "", "duplicate").inc(number)


def _send(unit: UnitOfWork, replies: Replies) -> None:
    if replies:
        unit.send(*([replies] if isinstance(replies, Message) else replies))


def _is_lost(raw: aio_pika.abc.AbstractIncomingMessage) -> bool:
    try:
        return bool(raw.channel.is_closed)
    except (aio_pika.exceptions.AMQPError, RuntimeError):
        return True


def _key_of(raw: aio_pika.abc.AbstractIncomingMessage) -> str:
    """The message's name. What came through an exchange is named by its routing key, which the broker's permissions
    bind; only the retry queues, which bring a message back through the default exchange, leave it to `type`."""
    return (raw.routing_key if raw.exchange else raw.type) or ""


def _sent_at(raw: aio_pika.abc.AbstractIncomingMessage) -> datetime:
    """AMQP's own timestamp has whole seconds; ours rides in CloudEvents' attribute."""
    with contextlib.suppress(ValueError, TypeError):
        exact = datetime.fromisoformat(str(raw.headers.get("cloudEvents_time")))
        if exact.tzinfo:
            return exact.astimezone(UTC)
    return raw.timestamp or datetime.now(UTC)


def _attempt_of(raw: aio_pika.abc.AbstractIncomingMessage) -> int:
    attempt = raw.headers.get("attempt") if not raw.exchange else 1
    return attempt if isinstance(attempt, int) and attempt > 0 else 1


__all__ = ["Handler", "Lane", "Outage", "lanes_of", "on"]
