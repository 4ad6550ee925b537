"""What the parts of one lane share: they read deliveries, load rows, call handlers and log outcomes."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog

from contracts.base import Message
from contracts.flow import service_of
from contracts.jobs import LetterSettled
from shared.messaging import inbox
from shared.messaging.causes import cause_of
from shared.messaging.copies import Copy
from shared.messaging.decode import Delivery, decode, replay_of, sent_at
from shared.messaging.forwarding import CUT_SECONDS, Forwarding
from shared.messaging.handler import Handler, JobLoader, Loader, Poison, Replies
from shared.messaging.intake import IncomingMessage, Intake, Lost, is_lost
from shared.messaging.outbox import Outbox
from shared.messaging.outcomes import log_outcome
from shared.messaging.pause import Pause
from shared.messaging.publisher import Publisher
from shared.messaging.retry import Failures
from shared.messaging.scheduled import Later
from shared.messaging.unit import UnitOfWork, Work
from shared.observability import metrics

log = structlog.get_logger(__name__)


class TooLong(Exception):
    """A handler did not come back in time; what it waited for was cancelled."""


class Lane:
    """The handlers of a queue, and what their processor needs besides."""

    def __init__(
        self,
        name: str,
        handlers: Mapping[str, Handler],
        outbox: Outbox,
        publisher: Publisher,
        failures: Failures,
        handler_seconds: float = 60.0,
    ) -> None:
        self.name, self.handlers, self.outbox, self.failures = name, handlers, outbox, failures
        self.handler_seconds = handler_seconds
        """How long a handler may take before its attempt fails."""
        self.labels = service_of(name), name
        self.tally = failures.tally
        self.intake, self.pause = Intake(), Pause(name)
        self.forwarding = Forwarding(name, outbox, publisher, failures, self.intake, self.pause)

    def read(self, raws: Sequence[IncomingMessage]) -> tuple[list[Delivery], list[Copy]]:
        """Decode deliveries. Unreadable ones are returned as copies for the dead letters. Raises `Lost`."""
        if any(map(is_lost, raws)):
            raise Lost
        readable, copies = [], []
        for raw in raws:
            try:
                readable.append(decode(raw, self.name, self.handlers))
            except Exception as error:
                reason, cause = str(error), error.__cause__ or error
                if isinstance(
                    error, Poison
                ):  # the place in the parser says nothing, and would double the cost of a flood
                    cause = cause.with_traceback(None)
                else:  # a fault of the kernel, which must not block all later messages
                    log.exception("lane: cannot read a message", lane=self.name)
                    reason = "reading it failed"
                copies.append(self.failures.unreadable(raw, reason, cause))
        return readable, copies

    async def handle(self, delivery: Delivery, unit: Work) -> Replies:
        """Call a handler. Raises `TooLong`, and what the handler raises."""
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
            self.tally.handled(took)
            metrics.of(metrics.HANDLING_SECONDS, *self.labels, delivery.envelope.key).observe(took)

    def log_done(self, delivery: Delivery, began: float, *, is_new: bool) -> None:
        """Log that a message is done, which began at a time in epoch seconds; without `is_new`, it was done before."""
        envelope = delivery.envelope
        log_outcome(self.name, "done" if is_new else "duplicate", envelope, **delivery.subject())
        self.tally.done += is_new
        if is_new:  # clocks differ: no message is handled before it was sent
            waited = max(0.0, began - envelope.sent_at.timestamp())
            metrics.of(metrics.WAITING_SECONDS, *self.labels, envelope.key).observe(waited)

    def measure(self, is_waiting: Callable[[], bool]) -> None:
        """Begin to measure the lane, which waits while `is_waiting` says so."""
        metrics.expect(*self.labels, self.handlers)
        metrics.of(metrics.LANE_PAUSED, *self.labels).set_function(lambda: float(is_waiting()))
        metrics.of(metrics.LANE_IN_HAND, *self.labels).set_function(lambda: len(self.intake.unanswered()))
        metrics.of(metrics.LANE_OLDEST_SECONDS, *self.labels).set_function(self._oldest_seconds)
        metrics.of(metrics.LANE_RETRYING, *self.labels).set_function(self.failures.waiting)

    def _oldest_seconds(self) -> float:
        """Seconds since the oldest unanswered message was sent; clocks may differ."""
        now = time.time()
        return max([0.0, *(now - sent_at(raw).timestamp() for raw, _ in self.intake.unanswered())])

    async def give_back(self, ids: Collection[str]) -> None:
        """Uncount attempts that end without an outcome, because no process died of them."""
        try:
            async with asyncio.timeout(CUT_SECONDS), self.outbox.unit() as unit:
                await inbox.give_back(unit.session, self.name, ids, self.outbox.owner)
        except Exception as error:
            log.warning("lane: cannot uncount interrupted attempts", lane=self.name, why=cause_of(error))


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
    # In one order, so that two batches do not lock two tables crosswise.
    for loads, batch in sorted(messages.items(), key=lambda found: found[0].__qualname__):
        unit.know(await loads(unit.session, batch))
    for loads_jobs, ids in jobs.items():
        unit.know(await loads_jobs(unit.session, ids))


def send(unit: Work, replies: Replies) -> None:
    """Send what a handler returned."""
    for reply in [replies] if isinstance(replies, Message | Later) else replies or ():
        if isinstance(reply, Later):
            unit.send(reply.message, at=reply.at, name=reply.name)
        else:
            unit.send(reply)


def confirm_replay(delivery: Delivery, unit: UnitOfWork) -> None:
    """Report to deadletters that a message which it sent again has had its effect."""
    if replay := replay_of(delivery.raw):
        unit.cause = delivery.envelope
        unit.send(LetterSettled(letter_id=replay[0], number=replay[1]))
