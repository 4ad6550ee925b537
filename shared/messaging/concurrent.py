"""The processor of a lane for work outside the database: SMTP, object storage, a payment.

Such work cannot be part of a transaction. Messages run concurrently, each by itself. The attempt is committed before
the work and the outcome after it, each for all messages that are ready at that moment. Messages that were being handled
when a process died are tried a few at a time and then one by one, beside the others: see `shared.messaging.suspects`.

If the server for the work is away, the handler raises `Outage`. No message is blamed, so no attempt is counted: the
message is delivered again later, the circuit opens, and one message at a time tries whether the server is back.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from shared.messaging import inbox, suspects
from shared.messaging.circuit import Circuit
from shared.messaging.decode import Delivery
from shared.messaging.handler import Poison, Replies
from shared.messaging.intake import IncomingMessage, Lost, is_lost
from shared.messaging.lane import Lane, TooLong, confirm_replay, load, send
from shared.messaging.ownership import Ownership
from shared.messaging.pause import uncancelled
from shared.messaging.unit import OutsideWork
from shared.observability import tracing
from shared.persistence.database import Backoff, Outage

log = structlog.get_logger(__name__)


class Busy(Exception):
    """A living process is trying the same message at this moment."""


class Suspect(Exception):
    """A process died while it tried this message, perhaps because of it. The message waits for its turn."""

    def __init__(self, tries: int) -> None:
        super().__init__()
        self.tries = tries


@dataclass(frozen=True, slots=True)
class Finished:
    """Work that has ended: what the handler returned or raised. Without work there is nothing to record."""

    delivery: Delivery
    work: OutsideWork | None
    outcome: Replies | Exception
    began: float = 0.0


class Concurrent:
    """Runs up to `at_once` messages at a time. A slow message delays only itself; messages that may have killed a
    process wait for each other."""

    def __init__(self, lane: Lane, at_once: int) -> None:
        self._lane, self._at_once = lane, at_once
        self._outbox, self._intake, self._wait_out = lane.outbox, lane.intake, lane.pause.wait_out
        self._in_flight: dict[str, list[IncomingMessage]] = {}  # each with further deliveries of the same message
        # Messages whose process died, each with the number that may be tried together. They count as in flight.
        self._suspects: deque[tuple[int, Delivery]] = deque()  # suspects that wait for their turn
        self._on_trial: dict[str, int] = {}  # suspects that are being tried
        self._finished: list[Finished] = []
        self._has_finished, self._has_room = asyncio.Event(), asyncio.Event()
        self._backoff = Backoff()
        self._ownership = Ownership(lane.name, lane.outbox)
        self._circuit = Circuit(lane.name)
        self._stopping = False

    def measure(self) -> None:
        self._lane.measure(lambda: bool(self._lane.pause.why or self._circuit.why))

    def warnings(self) -> list[str]:
        waits = "waits, with no attempt counted, and tries with one message at a time"
        circuit = f"{waits}: {self._circuit.why}" if self._circuit.why else None
        return list(filter(None, [circuit, self._lane.failures.warning()]))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        try:
            async with asyncio.TaskGroup() as self._group:
                recorder = self._group.create_task(self._record())
                yield
                recorder.cancel()
        except asyncio.CancelledError:
            # Most deliveries have only waited for their turn, and restarts must not count as deaths.
            await self._lane.give_back(self._in_flight)
            raise

    def stop(self) -> None:
        self._stopping = True

    async def is_busy(self) -> bool:
        if not self._in_flight:
            return False
        await self._wait_for_room()
        return True

    async def room(self) -> int:
        while self._working() >= self._at_once or self._circuit.is_probing:
            await self._wait_for_room()
        if not self._circuit.why:
            return self._at_once - self._working()
        if not self._stopping:
            await self._circuit.wait()
        if self._stopping:  # deliveries that have not begun go back to the broker
            self._intake.waiting.clear()
        return 1

    def _working(self) -> int:
        return len(self._in_flight) - len(self._suspects)

    async def _wait_for_room(self) -> None:
        self._has_room.clear()
        await self._has_room.wait()

    async def work(self, raws: Sequence[IncomingMessage]) -> None:
        readable, copies = self._lane.read(raws)
        begun: list[Delivery] = []
        for delivery in readable:
            if (message_id := delivery.envelope.message_id) in self._in_flight:
                self._in_flight[message_id].append(delivery.raw)
            else:
                self._in_flight[message_id] = [delivery.raw]
                begun.append(delivery)
        self._intake.at_work = [copy.raw for copy in copies]
        if begun:
            await self._start(begun)
        await self._lane.forwarding.forward(copies)

    async def _start(self, begun: Sequence[Delivery]) -> None:
        """Begin a batch of work. If that fails, begin each half; a single message that cannot begin has failed."""
        try:
            with tracing.together(f"begin {self._lane.name}", [delivery.envelope.traceparent for delivery in begun]):
                units = await self._wait_out(begun[0].raw, self._begin, begun)
        except Lost:
            for delivery in begun:
                self._leave(delivery, delivery.raw)
            return
        except Exception as error:
            if len(begun) == 1:
                self._end(Finished(begun[0], None, error))
                return
            middle = len(begun) // 2
            await self._start(begun[:middle])
            await self._start(begun[middle:])
            return
        for delivery in begun:
            work = units[delivery.envelope.message_id]
            if isinstance(work, OutsideWork):
                self._circuit.begin(delivery.envelope.message_id)
                self._group.create_task(self._do(delivery, work))
            elif isinstance(work, Suspect):
                self._suspects.append((suspects.together(work.tries, self._at_once), delivery))
            else:
                self._end(Finished(delivery, None, work))
        self._try_suspects()

    async def _begin(self, deliveries: Sequence[Delivery]) -> dict[str, OutsideWork | Exception | None]:
        """Commit the attempts of the messages that this process may try. Return for each its unit, or the error that
        prevents it; None if it is done already."""
        by_id = {delivery.envelope.message_id: delivery for delivery in deliveries}
        found: dict[str, OutsideWork | Exception | None] = {}
        async with self._outbox.unit() as unit:
            # First lock, then look: a process that finishes a message records its outcome and deletes the attempt at
            # once.
            begun = await inbox.begin_attempts(unit.session, self._lane.name, by_id, self._outbox.owner)
            done = await inbox.done(unit.session, self._lane.name, by_id)
            await inbox.end_attempts(unit.session, self._lane.name, done)
            for message_id, attempt in begun.items():
                if message_id in done:
                    confirm_replay(by_id[message_id], unit)
                    found[message_id] = None
                elif attempt.before and await self._outbox.membership.is_living(unit.session, attempt.before):
                    found[message_id] = Busy(f"process {attempt.before} is at it")
                elif suspects.is_killer(attempt.tries):
                    found[message_id] = suspects.killer()
                elif attempt.tries > 1 and message_id not in self._on_trial:
                    found[message_id] = Suspect(attempt.tries)
            not_now = [message_id for message_id, why in found.items() if isinstance(why, Busy | Suspect)]
            if not_now:
                await inbox.give_back(unit.session, self._lane.name, not_now, self._outbox.owner)
            ours = [delivery for message_id, delivery in by_id.items() if message_id not in found]
            await load(unit, ours)
        for delivery in ours:
            outside = unit.outside(delivery.envelope, partial(self._demand_ours, delivery))
            found[delivery.envelope.message_id] = outside
        return found

    async def _demand_ours(self, delivery: Delivery) -> None:
        """Raises `Busy` if another process has taken the message over, because this one was frozen or cut off for so
        long that it seemed dead. Waits out an outage; raises `Lost` as `Pause.wait_out` does."""
        if not await self._wait_out(delivery.raw, self._ownership.holds, delivery.envelope.message_id):
            raise Busy("another process has taken it over")

    async def _do(self, delivery: Delivery, work: OutsideWork) -> None:
        outcome: Replies | Exception
        began = time.time()
        try:
            with tracing.handling(self._lane.name, delivery.envelope) as work.cause:
                outcome = await uncancelled(self._lane.handle(delivery, work))
        except Exception as error:
            outcome = error
        self._end(Finished(delivery, work, outcome, began))

    def _end(self, finished: Finished) -> None:
        self._finished.append(finished)
        self._has_finished.set()

    async def _record(self) -> None:
        """Record all finished work at once. Work is recorded even if its delivery can no longer be acknowledged."""
        while True:
            await self._has_finished.wait()
            self._has_finished.clear()
            some, self._finished = self._finished, []
            for finished in some:
                self._learn(finished)
            good = [finished for finished in some if not isinstance(finished.outcome, Exception)]
            await self._record_together(good)
            for finished in some:
                if isinstance(finished.outcome, Exception):
                    self._group.create_task(self._fail(finished.delivery, finished.outcome))

    def _learn(self, finished: Finished) -> None:
        """Open or close the circuit. Any answer of the server closes it; some messages fail before it is asked."""
        if isinstance(finished.outcome, Outage):
            self._circuit.open(str(finished.outcome))
        elif self._circuit.why and finished.work and not isinstance(finished.outcome, Poison | Busy | Lost | TooLong):
            self._circuit.close()
            self._has_room.set()

    async def _record_together(self, good: Sequence[Finished]) -> None:
        try:
            if new := [finished for finished in good if finished.work]:
                with tracing.together(
                    f"record {self._lane.name}", [found.delivery.envelope.traceparent for found in new]
                ):
                    await self._wait_out(None, self._commit_outcomes, new)
        except Exception as error:
            if len(good) == 1:
                self._group.create_task(self._fail(good[0].delivery, error))
                return
            middle = len(good) // 2
            await self._record_together(good[:middle])
            await self._record_together(good[middle:])
            return
        for finished in good:
            self._lane.log_done(finished.delivery, finished.began, is_new=bool(finished.work))
            await self._acknowledge(finished.delivery)

    async def _commit_outcomes(self, good: Sequence[Finished]) -> None:
        ids = [finished.delivery.envelope.message_id for finished in good]
        async with self._outbox.unit() as unit:
            new = await inbox.claim(unit.session, self._lane.name, ids)
            await inbox.end_attempts(unit.session, self._lane.name, ids)
            for finished in good:
                assert finished.work
                assert not isinstance(finished.outcome, Exception)
                # Otherwise it is recorded: by another process, or by this one if only the commit's answer was lost.
                if finished.delivery.envelope.message_id in new:
                    unit.take_up(finished.work)
                    send(unit, finished.outcome)
                confirm_replay(finished.delivery, unit)

    async def _fail(self, delivery: Delivery, error: Exception) -> None:
        try:
            if isinstance(error, Lost):
                raise error
            # While the lane is paused, the handler waited in vain for the database or the broker.
            is_outage = isinstance(error, Outage) or (isinstance(error, TooLong) and self._lane.pause.why is not None)
            if is_outage:
                await self._wait_out(delivery.raw, self._forget_attempt, delivery.envelope.message_id)
            is_put_off = is_outage or isinstance(error, Busy)
            copy = (
                self._lane.failures.postponed(delivery) if is_put_off else self._lane.failures.failed(delivery, error)
            )
            await self._lane.forwarding.forward([copy])
        except Lost:
            self._leave(delivery)
        except Exception:
            log.exception("lane: cannot settle a message, trying again", lane=self._lane.name)
            await self._backoff.wait()
            self._leave(delivery, delivery.raw)
        else:
            self._leave(delivery)

    async def _forget_attempt(self, message_id: str) -> None:
        async with self._outbox.unit() as unit:
            await inbox.end_attempts(unit.session, self._lane.name, [message_id], self._outbox.owner)

    async def _acknowledge(self, delivery: Delivery) -> None:
        with contextlib.suppress(Lost):
            await self._intake.acknowledge([delivery.raw])
        self._leave(delivery)

    def _leave(self, delivery: Delivery, *again: IncomingMessage) -> None:
        """Free the place of a message. Further deliveries of it are taken again, and found to be done."""
        message_id = delivery.envelope.message_id
        _, *copies = self._in_flight.pop(message_id)
        self._circuit.end(message_id)
        self._intake.waiting.extend(raw for raw in (*again, *copies) if not is_lost(raw))
        self._intake.arrived.set()
        self._has_room.set()
        if self._on_trial.pop(message_id, None):
            self._try_suspects()

    def _try_suspects(self) -> None:
        """Begin as many suspects as may be tried together, so that in the end a killer is tried alone. Suspects that
        the broker has taken back, and all of them when the process ends, go back to the broker."""
        turn: list[Delivery] = []
        while self._suspects:
            most, following = self._suspects[0]
            if len(self._on_trial) >= min([most, *self._on_trial.values()]):
                break
            self._suspects.popleft()
            if self._stopping or is_lost(following.raw):
                self._leave(following)
            else:
                self._on_trial[following.envelope.message_id] = most
                turn.append(following)
        if turn:
            self._group.create_task(self._start(turn))
