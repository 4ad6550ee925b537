"""What every lane does: it takes deliveries, pauses while its database or broker is gone, and answers for each.

What becomes of a batch is said by the subclasses: `consumer` commits it as one transaction, `outside` runs work
outside the database, `collector` keeps dead letters.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

import aio_pika
import structlog

from contracts.base import Message
from contracts.flow import service_of
from shared.messaging import inbox
from shared.messaging.causes import cause_of
from shared.messaging.decode import Delivery, Raw, decode, is_lost, key_of, sent_at
from shared.messaging.handler import Handler, JobLoader, Loader, Poison, Replies
from shared.messaging.outbox import Outbox
from shared.messaging.publisher import is_cancelled
from shared.messaging.retry import Copy, Failures, tell
from shared.messaging.unit import UnitOfWork
from shared.observability import metrics
from shared.persistence.database import Backoff, is_outage

log = structlog.get_logger(__name__)

CUT_SECONDS = 2.0
"""How long a lane that is cut short may take to leave nothing half done."""

T = TypeVar("T")


class Lost(Exception):
    """The channel of a delivery is gone: it can no longer be acknowledged, and the broker delivers it again."""


class TooLong(Exception):
    """A handler did not come back in time; what it waited for was cancelled."""


class Intake:
    """A queue's consumer: takes what FastStream's subscriber is given, and answers for it."""

    def __init__(
        self, name: str, handlers: dict[str, Handler], outbox: Outbox, failures: Failures, batch_limit: int
    ) -> None:
        self.name, self.handlers = name, handlers
        self.handler_seconds = 60.0
        """How long a handler may take before its attempt fails."""
        self.paused: str | None = None
        """Why the lane waits for its database or broker; None while it works."""
        self.prefetch = 2 * batch_limit
        self._outbox, self._failures, self._at_once = outbox, failures, batch_limit
        self._taken: deque[Raw] = deque()
        self._at_work: list[Raw] = []  # of the batch in hand, what has no outcome yet
        self._labels = service_of(name), name
        self._arrived = asyncio.Event()
        self._stopping = False
        self._since: dict[int, float] = {}  # when what is in hand was taken, by its identity
        self._is_slow = False

    @property
    def warning(self) -> str | None:
        """Why somebody should look at the lane, though it works; None if all is well."""
        return "; ".join(self._warnings()) or None

    def _warnings(self) -> list[str]:
        return list(filter(None, [self._slow(), self._failures.warning()]))

    def _slow(self) -> str | None:
        """Which message has been in hand for longer than half of what a handler may take; None while none has."""
        raws = self._in_hand()
        self._since = {id(raw): self._since.get(id(raw), time.monotonic()) for raw in raws}
        oldest = min(raws, key=lambda raw: self._since[id(raw)], default=None)
        if oldest is None or self.paused:
            return None
        age = time.monotonic() - self._since[id(oldest)]
        if age <= self.handler_seconds / 2:
            return None
        return f"{key_of(oldest) or metrics.UNREADABLE} {oldest.message_id} has been in hand for {age:.0f} s"

    def look_after(self) -> None:
        """Say once in the log that a message is in hand for long. To be called every few seconds."""
        slow = self._slow()
        if slow and not self._is_slow:
            log.warning("lane: a message is in hand for long", lane=self.name, why=slow)
        self._is_slow = bool(slow)

    async def take(self, raw: Raw) -> None:
        """Receive a delivery. It is acknowledged when its outcome is committed."""
        self._since[id(raw)] = time.monotonic()
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
        metrics.expect(*self._labels, self.handlers)
        metrics.of(metrics.LANE_PAUSED, *self._labels).set_function(lambda: float(self.paused is not None))
        metrics.of(metrics.LANE_IN_HAND, *self._labels).set_function(lambda: len(self._in_hand()))
        metrics.of(metrics.LANE_OLDEST_SECONDS, *self._labels).set_function(self._oldest)
        metrics.of(metrics.LANE_RETRYING, *self._labels).set_function(self._failures.waiting)

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
            self._at_work = [self._taken.popleft() for _ in range(min(len(self._taken), room))]
            if not self._taken and not self._stopping:
                self._arrived.clear()
            try:
                if self._at_work:
                    await self._work(self._at_work)
                backoff.reset()
                self._resume()
            except Lost:
                log.info("lane: the broker will deliver again what it took back", lane=self.name)
                self._take_again(raw for raw in self._at_work if not is_lost(raw))  # of a new channel
            except Exception as error:
                log.exception("lane: cannot settle a batch, trying again", lane=self.name)
                self._pause(f"cannot settle a batch: {cause_of(error)}")
                self._take_again(self._at_work)
                await backoff.wait()

    def _take_again(self, raws: Iterable[Raw]) -> None:
        self._taken.extendleft(reversed(list(raws)))
        self._at_work = []
        self._arrived.set()

    async def _room(self) -> int:
        """How many deliveries may be worked on now; waits until it is at least one."""
        return self._at_once

    async def _work(self, raws: Sequence[Raw]) -> None:
        """Give each delivery of a batch its outcome."""
        raise NotImplementedError

    async def _handle(self, delivery: Delivery, unit: UnitOfWork) -> Replies:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self.handler_seconds) as limit:
                return await delivery.handler.call(delivery.message, unit)
        except TimeoutError as error:
            if limit.expired():
                raise TooLong(f"its handler took longer than {self.handler_seconds:g} s") from error
            raise
        finally:
            took = time.perf_counter() - started
            metrics.of(metrics.HANDLING_SECONDS, *self._labels, delivery.envelope.key).observe(took)

    def _tell_done(self, delivery: Delivery, began: float, *, is_new: bool) -> None:
        envelope = delivery.envelope
        tell(self.name, "done" if is_new else "duplicate", envelope, **delivery.subject())
        if is_new:  # clocks may differ: a message is not handled before it was sent
            waited = max(0.0, began - envelope.sent_at.timestamp())
            metrics.of(metrics.WAITING_SECONDS, *self._labels, envelope.key).observe(waited)

    async def _give_back(self, ids: Collection[str]) -> None:
        """Uncount what has begun and is left without an outcome: no process died of it."""
        try:
            async with asyncio.timeout(CUT_SECONDS), self._outbox.unit() as unit:
                await inbox.give_back(unit.session, self.name, ids, self._outbox.owner)
        except Exception as error:
            log.warning("lane: cannot give back what was cut short", lane=self.name, why=cause_of(error))

    async def _give_up(self, copies: Sequence[Copy]) -> None:
        """Send copies on in place of their messages, all at once. A lane that is cut short finishes this first."""
        if copies:
            await _whole(self._send_on(copies))

    async def _send_on(self, copies: Sequence[Copy]) -> None:
        once: dict[tuple[object, ...], Copy] = {}  # what came several times is to come again once
        for copy in copies:
            once.setdefault(copy.fate(), copy)
        waiting = list(once.values())
        try:
            await self._steadily(copies[0].raw, self._failures.send, waiting)
        finally:
            left = {copy.fate() for copy in waiting}
            if sent := [copy for copy in copies if copy.fate() not in left]:
                await self._record_sent([copy for copy in sent if once[copy.fate()] is copy])
                await self._acknowledge([copy.raw for copy in sent])

    async def _record_sent(self, sent: Sequence[Copy]) -> None:
        """Write down what became of messages that were sent on. Whatever fails, only this is done again."""
        backoff = Backoff()
        while True:
            try:
                return await self._steadily(None, self._failures.record, sent)
            except Exception as error:
                log.exception("lane: cannot record what was sent on, trying again", lane=self.name)
                self._pause(f"cannot record what was sent on: {cause_of(error)}")
                await backoff.wait()

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
                self._pause(cause_of(error))
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

    def _read(self, raws: Sequence[Raw]) -> tuple[list[Delivery], list[Copy]]:
        """Read deliveries; what nobody can read is to be sent to the dead letters. Raises `Lost`."""
        if any(map(is_lost, raws)):
            raise Lost
        readable, copies = [], []
        for raw in raws:
            try:
                readable.append(decode(raw, self.name, self.handlers))
            except Exception as error:
                reason, cause = str(error), error.__cause__ or error
                if isinstance(error, Poison):  # where a parser gave up says nothing, and is half of what a flood costs
                    cause = cause.with_traceback(None)
                else:  # of ours, but not to be met again and again by all that come after
                    log.exception("lane: cannot read a message", lane=self.name)
                    reason = "reading it failed"
                copies.append(self._failures.unreadable(raw, reason, cause))
        return readable, copies

    async def _acknowledge(self, raws: Sequence[Raw]) -> None:
        """Acknowledge what has an outcome; all that is left of a batch in one frame. Raises `Lost`: what cannot be
        acknowledged is delivered again, and found in the inbox."""
        settled = {raw.delivery_tag for raw in raws}
        self._at_work = [raw for raw in self._at_work if raw.delivery_tag not in settled]
        if not self._at_work:
            await acknowledge(max(raws, key=lambda raw: raw.delivery_tag or 0), multiple=True)
            return
        for raw in raws:
            await acknowledge(raw)


async def acknowledge(raw: Raw, *, multiple: bool = False) -> None:
    """Raises `Lost`."""
    try:
        await raw.channel.basic_ack(raw.delivery_tag or 0, multiple=multiple, wait=False)
    except (aio_pika.exceptions.AMQPError, ConnectionError, RuntimeError) as error:
        raise Lost from error


async def _whole(work: Coroutine[Any, Any, None]) -> None:
    """Do what must not be cut in two: if this task is cancelled, the work may still be finished, within seconds."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():  # cut short, it writes down what it has done, for which the database may be away
            await asyncio.wait({task}, timeout=CUT_SECONDS)
            task.cancel()
        raise


async def uncancelled(work: Awaitable[T]) -> T:
    """Wait for work. If it is cancelled though nobody cancelled us, that is a failure of the work's own."""
    try:
        return await work
    except asyncio.CancelledError as error:
        if is_cancelled(error):
            raise
        raise RuntimeError("something that it waited for was cancelled") from error


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
