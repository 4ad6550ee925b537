"""Lanes: what arrived is decoded, claimed, loaded, handled, committed and acknowledged as one batch.

Read `Lane._commit` first: it is the happy path. The rest of the class is what happens when something fails.
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import aio_pika
import structlog

from contracts.base import Message
from contracts.flow import service_of
from shared import inbox, telemetry, tracing
from shared.database import Backoff, is_outage
from shared.handler import Handler, JobLoader, Loader, Poison, Replies
from shared.outbox import Outbox
from shared.publisher import is_cancelled
from shared.retry import Failures, settle, tell
from shared.unit import UnitOfWork
from shared.wire import Delivery, Raw, decode, is_lost, sent_at

log = structlog.get_logger(__name__)

LONE_ATTEMPTS = 3
"""A message whose process died the last so many times that it was tried, alone or in a lane for outside work, goes to
the dead letters."""

T = TypeVar("T")


class Lost(Exception):
    """The channel of a delivery is gone: it can no longer be acknowledged, and the broker delivers it again."""


class Lane:
    """A queue's consumer: takes what FastStream's subscriber is given, and answers for it."""

    def __init__(
        self, name: str, handlers: dict[str, Handler], outbox: Outbox, failures: Failures, batch_limit: int
    ) -> None:
        self.name, self.handlers = name, handlers
        self.paused: str | None = None
        """Why the lane waits for its database or broker; None while it works."""
        self.prefetch = 2 * batch_limit
        self._outbox, self._failures, self._at_once = outbox, failures, batch_limit
        self._taken: deque[Raw] = deque()
        self._at_work: Sequence[Raw] = ()
        self._labels = service_of(name), name
        self._arrived = asyncio.Event()
        self._stopping = False

    @property
    def warning(self) -> str | None:
        """Why somebody should look at the lane, though it works; None if all is well."""
        return "; ".join(self._warnings()) or None

    def _warnings(self) -> list[str]:
        return list(filter(None, [self._failures.warning()]))

    async def take(self, raw: Raw) -> None:
        """Receive a delivery. It is acknowledged when its outcome is committed."""
        self._taken.append(raw)
        self._arrived.set()

    def stop(self) -> None:
        """Let `run` return once all that was taken has an outcome."""
        self._stopping = True
        self._arrived.set()

    async def run(self) -> None:
        """Work, until stopped. An error of the kernel's own is logged, and the deliveries are tried again."""
        self._measure()
        try:
            await self._run_until_stopped()
        finally:
            self.paused = "the lane has ended: this process has to be started again"

    def _measure(self) -> None:
        telemetry.expect(*self._labels, self.handlers)
        telemetry.of(telemetry.LANE_PAUSED, *self._labels).set_function(lambda: float(self.paused is not None))
        telemetry.of(telemetry.LANE_IN_HAND, *self._labels).set_function(lambda: len(self._in_hand()))
        telemetry.of(telemetry.LANE_OLDEST_SECONDS, *self._labels).set_function(self._oldest)

    def _in_hand(self) -> Sequence[Raw]:
        """What was delivered and has no outcome yet."""
        return [*self._at_work, *self._taken]

    def _oldest(self) -> float:
        """Seconds since the oldest message in hand was sent; clocks may differ."""
        now = time.time()
        return max([0.0, *(now - sent_at(raw).timestamp() for raw in self._in_hand())])

    async def _run_until_stopped(self) -> None:
        backoff = Backoff()
        while self._taken or not self._stopping:
            await self._arrived.wait()
            room = await self._room()
            some = [self._taken.popleft() for _ in range(min(len(self._taken), room))]
            if not self._taken and not self._stopping:
                self._arrived.clear()
            try:
                if some:
                    await self._settle_all(some)
                backoff.reset()
                self._resume()
            except Lost:
                log.info("lane: the broker will deliver again what it took back", lane=self.name)
                self._taken.extendleft(raw for raw in reversed(some) if not is_lost(raw))  # of a new channel
                self._arrived.set()
            except Exception as error:
                log.exception("lane: cannot settle a batch, trying again", lane=self.name)
                self._pause(f"cannot settle a batch: {error!r}")
                self._taken.extendleft(reversed(some))
                self._arrived.set()
                await backoff.wait()

    async def _room(self) -> int:
        """How many deliveries may be worked on now; waits until it is at least one."""
        return self._at_once

    async def _settle_all(self, raws: Sequence[Raw]) -> None:
        self._at_work = raws
        try:
            await self._work(raws)
        finally:
            self._at_work = ()

    async def _work(self, raws: Sequence[Raw]) -> None:
        started = time.perf_counter()
        readable = [delivery for raw in raws if (delivery := await self._read(raw))]
        for is_suspect, group in itertools.groupby(readable, lambda delivery: bool(delivery.raw.redelivered)):
            await (self._run_suspects if is_suspect else self._run)(list(group))
        await self._acknowledge(raws[-1], multiple=True)
        telemetry.of(telemetry.BATCH_SIZE, *self._labels).observe(len(raws))
        telemetry.of(telemetry.BATCH_SECONDS, *self._labels).observe(time.perf_counter() - started)

    async def _run(self, deliveries: Sequence[Delivery]) -> None:
        """Commit a batch. If it fails, halve it: what fails by itself counts an attempt, and nothing else does."""
        try:
            with tracing.together(f"batch {self.name}", [delivery.envelope.traceparent for delivery in deliveries]):
                await self._steadily(deliveries[0].raw, self._commit, deliveries)
        except Lost:
            raise
        except Exception as error:
            if len(deliveries) == 1:
                await self._give_up(deliveries[0], error)
                return
            middle = len(deliveries) // 2
            await self._run(deliveries[:middle])
            await self._run(deliveries[middle:])

    async def _commit(self, deliveries: Sequence[Delivery]) -> None:
        """The algorithm: claim, load, handle, write, commit - one transaction for all."""
        began = time.time()
        first = {delivery.envelope.message_id: delivery for delivery in reversed(deliveries)}
        async with self._outbox.unit() as unit:
            new = await inbox.claim(unit.session, self.name, first)
            todo = [d for d in deliveries if d.envelope.message_id in new and first[d.envelope.message_id] is d]
            await load(unit, todo)
            for delivery in todo:
                with tracing.handling(self.name, delivery.envelope) as unit.cause:
                    send(unit, await self._handle(delivery, unit))
            for delivery in deliveries:
                settle(delivery, unit)
            if deliveries[0].raw.redelivered:
                await inbox.end_attempts(unit.session, self.name, list(first))
        for delivery in deliveries:
            is_new = delivery.envelope.message_id in new and first[delivery.envelope.message_id] is delivery
            self._tell_done(delivery, began, is_new=is_new)

    async def _handle(self, delivery: Delivery, unit: UnitOfWork) -> Replies:
        started = time.perf_counter()
        try:
            return await delivery.handler.call(delivery.message, unit)
        finally:
            took = time.perf_counter() - started
            telemetry.of(telemetry.HANDLING_SECONDS, *self._labels, delivery.envelope.key).observe(took)

    def _tell_done(self, delivery: Delivery, began: float, *, is_new: bool) -> None:
        envelope = delivery.envelope
        tell(self.name, "done" if is_new else "duplicate", envelope, **delivery.subject())
        if is_new:  # clocks may differ: a message is not handled before it was sent
            waited = max(0.0, began - envelope.sent_at.timestamp())
            telemetry.of(telemetry.WAITING_SECONDS, *self._labels, envelope.key).observe(waited)

    async def _run_suspects(self, deliveries: Sequence[Delivery]) -> None:
        """What comes again may have killed its process: write the attempt down first, then run it alone.

        The killer is then found by its own attempts, and its neighbours are not blamed for having been near it.
        """
        done = await self._steadily(deliveries[0].raw, self._done, deliveries)
        for delivery in deliveries:
            if delivery.envelope.message_id in done:
                tell(self.name, "duplicate", delivery.envelope)
                continue
            attempts = await self._steadily(delivery.raw, self._begin_alone, delivery.envelope.message_id)
            if attempts > LONE_ATTEMPTS:
                await self._give_up(delivery, killer())
            else:
                await self._run([delivery])

    async def _done(self, deliveries: Sequence[Delivery]) -> set[str]:
        async with self._outbox.unit() as unit:
            done = await inbox.done(unit.session, self.name, {delivery.envelope.message_id for delivery in deliveries})
            await inbox.end_attempts(unit.session, self.name, done)  # copies of them may have been done elsewhere
            for delivery in deliveries:
                if delivery.envelope.message_id in done:
                    settle(delivery, unit)
        return done

    async def _begin_alone(self, message_id: str) -> int:
        async with self._outbox.unit() as unit:
            begun = await inbox.begin_attempts(unit.session, self.name, [message_id], self._outbox.owner)
            return begun[message_id].tries

    async def _give_up(self, delivery: Delivery, error: Exception) -> None:
        follow = await self._steadily(delivery.raw, self._failures.fail, delivery, error)
        await self._steadily(None, self._failures.record, delivery, follow)

    async def _steadily(self, raw: Raw | None, step: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Do a step. While the database or the broker is gone the lane pauses, and no attempt is counted.

        Raises `Lost` once the broker has taken the delivery `raw` back; without one, goes on until the step is done.
        """
        backoff = Backoff()
        while True:
            try:
                result = await uncancelled(step(*arguments))
            except Exception as error:
                if not is_outage(error):
                    raise
                self._pause(str(error).splitlines()[0])
                await backoff.wait()
                if raw and is_lost(raw):
                    raise Lost from error
                continue
            self._resume()
            return result

    def _pause(self, why: str) -> None:
        if self.paused is None:
            log.warning("lane: paused", lane=self.name, why=why)
        self.paused = why

    def _resume(self) -> None:
        if self.paused is not None:
            log.info("lane: resumed", lane=self.name)
        self.paused = None

    async def _read(self, raw: Raw) -> Delivery | None:
        """Read a delivery, or send to the dead letters at once what nobody can read."""
        if is_lost(raw):
            raise Lost
        try:
            return decode(raw, self.name, self.handlers)
        except Exception as error:
            reason, cause = str(error), error.__cause__ or error
            if not isinstance(error, Poison):  # of ours, but not to be met again and again by all that come after
                log.exception("lane: cannot read a message", lane=self.name)
                reason = "reading it failed"
            await self._steadily(raw, self._failures.bury, raw, None, reason, cause)
            return None

    async def _acknowledge(self, raw: Raw, *, multiple: bool = False) -> None:
        """Raises `Lost`: what cannot be acknowledged is delivered again, and found in the inbox."""
        try:
            await raw.channel.basic_ack(raw.delivery_tag or 0, multiple=multiple, wait=False)
        except (aio_pika.exceptions.AMQPError, ConnectionError, RuntimeError) as error:
            raise Lost from error


async def uncancelled(work: Awaitable[T]) -> T:
    """Wait for work. If it is cancelled though nobody cancelled us, that is a failure of the work's own."""
    try:
        return await work
    except asyncio.CancelledError as error:
        if is_cancelled(error):
            raise
        raise RuntimeError("something that it waited for was cancelled") from error


def killer() -> Poison:
    """What is said of a message that kills."""
    return Poison(f"its process died the last {LONE_ATTEMPTS} times that it was tried")


async def load(unit: UnitOfWork, deliveries: Sequence[Delivery]) -> None:
    """Load what the handlers of these deliveries declared: each loader once, for all of its messages."""
    messages: dict[Loader, list[Message]] = {}
    jobs: dict[JobLoader, set[str]] = {}
    for delivery in deliveries:
        handler, message = delivery.handler, delivery.message
        if handler.loads:
            messages.setdefault(handler.loads, []).append(message)
        if handler.loads_jobs:
            jobs.setdefault(handler.loads_jobs, set()).update(message.job_states(delivery.envelope.correlation_id))
    # In one order, whatever came first: two batches must not lock two tables crosswise.
    for loads, batch in sorted(messages.items(), key=lambda found: found[0].__qualname__):
        unit.know(await loads(unit.session, batch))
    for loads_jobs, ids in jobs.items():
        unit.know(await loads_jobs(unit.session, ids))


def send(unit: UnitOfWork, replies: Replies) -> None:
    """Send what a handler returned."""
    if replies:
        unit.send(*([replies] if isinstance(replies, Message) else replies))
