"""Lanes for work outside the database: SMTP, object storage, a payment.

Such work has no place in a transaction. Its messages run concurrently, each by itself; the attempt is committed before
the work and the outcome after it, both for as many messages at once as there are. Those that were in hand when a
process died are tried one by one, beside the others: the one that killed it is then found by its own attempts.

Where the work has no server to be done at, the handler raises `Outage`. That is no message's fault, so no attempt is
counted: the message comes again later, the circuit opens, and one message at a time tries whether the server is back.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from contracts.flow import service_of
from shared import inbox, telemetry, tracing
from shared.consumer import LONE_ATTEMPTS, Lane, Lost, killer, load, log, send, uncancelled
from shared.database import Backoff, Outage
from shared.handler import Handler, Poison, Replies
from shared.outbox import Outbox
from shared.retry import Failures, settle
from shared.unit import UnitOfWork
from shared.wire import Delivery, Raw, is_lost


class Busy(Exception):
    """A living process is trying the same message at this moment."""


class OneByOne(Exception):
    """A process died while it tried this message, perhaps of it: it waits for its turn to be tried again."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Work that came to an end: what the handler returned or raised. Without a unit there is nothing to record."""

    delivery: Delivery
    unit: UnitOfWork | None
    outcome: Replies | Exception
    began: float = 0.0


class OutsideLane(Lane):
    """Runs up to `concurrency` messages at a time; a slow one holds up nobody but itself, and those that a process may
    have died of one another."""

    def __init__(
        self, name: str, handlers: dict[str, Handler], outbox: Outbox, failures: Failures, concurrency: int
    ) -> None:
        super().__init__(name, handlers, outbox, failures, concurrency)
        self._in_flight: dict[str, list[Raw]] = {}  # each with the copies of it that came meanwhile
        self._suspect: str | None = None  # of those whose process died, the one that is being tried
        self._suspects: deque[Delivery] = deque()  # those that wait for that; they are in flight, too
        self._finished: list[Finished] = []
        self._has_finished, self._has_room = asyncio.Event(), asyncio.Event()
        self._backoff = Backoff()
        self._circuit: str | None = None  # why it is open; None while it is closed
        self._probes: set[str] = set()  # what was begun since it opened, and has no end yet
        self._probe_backoff = Backoff()

    def _measure(self) -> None:
        super()._measure()
        waits = telemetry.of(telemetry.LANE_PAUSED, service_of(self.name), self.name)
        waits.set_function(lambda: float(bool(self.paused or self._circuit)))

    def _warnings(self) -> list[str]:
        waits = "waits, with no attempt counted, and tries with one message at a time"
        return [*([f"{waits}: {self._circuit}"] if self._circuit else []), *super()._warnings()]

    async def _run_until_stopped(self) -> None:
        try:
            await self._run_in_a_group()
        except asyncio.CancelledError:
            await self._give_back()
            raise

    async def _run_in_a_group(self) -> None:
        async with asyncio.TaskGroup() as self._group:
            recorder = self._group.create_task(self._record())
            await super()._run_until_stopped()
            while self._in_flight:
                await self._wait_for_room()
                await super()._run_until_stopped()  # the copies that waited for the end of their message
            recorder.cancel()

    async def _give_back(self) -> None:
        """Uncount what is cut short at the end of the grace time: much of it has only waited for its turn, and a few
        restarts must not look like as many deaths."""
        if self._in_flight:
            try:
                async with self._outbox.unit() as unit:
                    await inbox.give_back(unit.session, self.name, self._in_flight, self._outbox.owner)
            except Exception as error:
                log.warning("lane: cannot give back what was cut short", lane=self.name, why=repr(error))

    async def _room(self) -> int:
        while (at_work := len(self._in_flight) - len(self._suspects)) >= self._at_once or (
            self._circuit and self._probes
        ):
            await self._wait_for_room()
        if not self._circuit:
            return self._at_once - at_work
        if not self._stopping:
            await self._probe_backoff.wait()
        if self._stopping:  # what was not begun goes back to the broker
            self._taken.clear()
        return 1

    def _in_hand(self) -> Sequence[Raw]:
        return [*(raw for raws in self._in_flight.values() for raw in raws), *self._taken]

    async def _wait_for_room(self) -> None:
        self._has_room.clear()
        await self._has_room.wait()

    async def _work(self, raws: Sequence[Raw]) -> None:
        begun: list[Delivery] = []
        for delivery in [delivery for raw in raws if (delivery := await self._read_alone(raw))]:
            if (message_id := delivery.envelope.message_id) in self._in_flight:
                self._in_flight[message_id].append(delivery.raw)
            else:
                self._in_flight[message_id] = [delivery.raw]
                begun.append(delivery)
        if begun:
            await self._start(begun)

    async def _start(self, begun: Sequence[Delivery]) -> None:
        """Begin a batch of work. If it cannot be begun, halve it: what cannot be begun by itself has failed."""
        try:
            with tracing.together(f"begin {self.name}", [delivery.envelope.traceparent for delivery in begun]):
                units = await self._steadily(begun[0].raw, self._begin, begun)
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
            unit = units[delivery.envelope.message_id]
            if isinstance(unit, UnitOfWork):
                if self._circuit:
                    self._probes.add(delivery.envelope.message_id)
                self._group.create_task(self._do(delivery, unit))
            elif isinstance(unit, OneByOne):
                self._suspects.append(delivery)
            else:
                self._end(Finished(delivery, None, unit))
        self._try_next_suspect()

    async def _read_alone(self, raw: Raw) -> Delivery | None:
        """Read a delivery; what is lost comes again by itself, what nobody can read is done with."""
        with contextlib.suppress(Lost):
            delivery = await self._read(raw)
            if delivery is None:
                await self._acknowledge(raw)
            return delivery
        return None

    async def _begin(self, deliveries: Sequence[Delivery]) -> dict[str, UnitOfWork | Exception | None]:
        """Commit the attempts of those that are ours to do: for each its unit, or why not; None if it is done."""
        by_id = {delivery.envelope.message_id: delivery for delivery in deliveries}
        found: dict[str, UnitOfWork | Exception | None] = {}
        async with self._outbox.unit() as unit:
            # First lock, then look: whoever is at a message records its outcome and deletes the attempt at once.
            begun = await inbox.begin_attempts(unit.session, self.name, by_id, self._outbox.owner)
            done = await inbox.done(unit.session, self.name, by_id)
            await inbox.end_attempts(unit.session, self.name, done)
            for message_id, attempt in begun.items():
                if message_id in done:
                    settle(by_id[message_id], unit)
                    found[message_id] = None
                elif attempt.before and await self._outbox.is_living(unit.session, attempt.before):
                    found[message_id] = Busy(f"process {attempt.before} is at it")
                elif attempt.tries > LONE_ATTEMPTS:
                    found[message_id] = killer()
                elif attempt.tries > 1 and message_id != self._suspect:
                    found[message_id] = OneByOne()
            not_now = [message_id for message_id, why in found.items() if isinstance(why, Busy | OneByOne)]
            if not_now:
                await inbox.give_back(unit.session, self.name, not_now, self._outbox.owner)
            ours = [delivery for message_id, delivery in by_id.items() if message_id not in found]
            await load(unit, ours)
        return found | {delivery.envelope.message_id: unit.apart(delivery.envelope) for delivery in ours}

    async def _do(self, delivery: Delivery, unit: UnitOfWork) -> None:
        outcome: Replies | Exception
        began = time.time()
        try:
            with tracing.handling(self.name, delivery.envelope) as unit.cause:
                outcome = await uncancelled(self._handle(delivery, unit))
        except Exception as error:
            outcome = error
        self._end(Finished(delivery, unit, outcome, began))

    def _end(self, finished: Finished) -> None:
        self._finished.append(finished)
        self._has_finished.set()

    async def _record(self) -> None:
        """Record what has finished, all that there is at a time. What was done is recorded, acknowledged or not."""
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
        """Open or close the circuit: whatever the server said to a message, it is there."""
        if isinstance(finished.outcome, Outage):
            if self._circuit is None:
                log.warning("lane: circuit opened", lane=self.name, why=str(finished.outcome))
            self._circuit = str(finished.outcome)
        elif self._circuit and finished.unit and not isinstance(finished.outcome, Poison):
            log.info("lane: circuit closed", lane=self.name)
            self._circuit = None
            self._probes.clear()
            self._probe_backoff.reset()
            self._has_room.set()

    async def _record_together(self, good: Sequence[Finished]) -> None:
        try:
            if new := [finished for finished in good if finished.unit]:
                with tracing.together(f"record {self.name}", [found.delivery.envelope.traceparent for found in new]):
                    await self._steadily(None, self._commit_outcomes, new)
        except Exception as error:
            if len(good) == 1:
                self._group.create_task(self._fail(good[0].delivery, error))
                return
            middle = len(good) // 2
            await self._record_together(good[:middle])
            await self._record_together(good[middle:])
            return
        for finished in good:
            self._tell_done(finished.delivery, finished.began, is_new=bool(finished.unit))
            await self._settle(finished.delivery)

    async def _commit_outcomes(self, good: Sequence[Finished]) -> None:
        ids = [finished.delivery.envelope.message_id for finished in good]
        async with self._outbox.unit() as unit:
            await inbox.claim(unit.session, self.name, ids)
            await inbox.end_attempts(unit.session, self.name, ids)
            for finished in good:
                assert finished.unit
                assert not isinstance(finished.outcome, Exception)
                unit.take_up(finished.unit)
                send(unit, finished.outcome)
                settle(finished.delivery, unit)

    async def _fail(self, delivery: Delivery, error: Exception) -> None:
        try:
            if isinstance(error, Outage):
                await self._steadily(delivery.raw, self._forget_attempt, delivery.envelope.message_id)
            if isinstance(error, Busy | Outage):
                await self._steadily(delivery.raw, self._failures.postpone, delivery)
            else:
                await self._give_up(delivery, error)
        except Lost:
            self._leave(delivery)
        except Exception:
            log.exception("lane: cannot settle a message, trying again", lane=self.name)
            await self._backoff.wait()
            self._leave(delivery, delivery.raw)
        else:
            await self._settle(delivery)

    async def _forget_attempt(self, message_id: str) -> None:
        async with self._outbox.unit() as unit:
            await inbox.end_attempts(unit.session, self.name, [message_id])

    async def _settle(self, delivery: Delivery) -> None:
        with contextlib.suppress(Lost):
            await self._acknowledge(delivery.raw)
        self._leave(delivery)

    def _leave(self, delivery: Delivery, *again: Raw) -> None:
        """Make room, and take again what came meanwhile of the same message, to find out that it is done."""
        message_id = delivery.envelope.message_id
        _, *copies = self._in_flight.pop(message_id)
        self._probes.discard(message_id)
        self._taken.extend(raw for raw in (*again, *copies) if not is_lost(raw))
        self._arrived.set()
        self._has_room.set()
        if message_id == self._suspect:
            self._suspect = None
            self._try_next_suspect()

    def _try_next_suspect(self) -> None:
        """One at a time, so that the one that kills is the only one that is tried when it does. Those that the broker
        has taken back, and all of them when the process ends, are left to it."""
        while self._suspects and self._suspect is None:
            following = self._suspects.popleft()
            if self._stopping or is_lost(following.raw):
                self._leave(following)
            else:
                self._suspect = following.envelope.message_id
                self._group.create_task(self._start([following]))
