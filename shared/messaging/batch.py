"""The processor of a lane: a batch is decoded, claimed, loaded, handled, committed and acknowledged as one.

Read `Batch._commit` first: it is the happy path. The rest of the class is what happens when something fails.
"""

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

from sqlalchemy.exc import SQLAlchemyError

from shared.messaging import inbox, suspects
from shared.messaging.copies import Copy
from shared.messaging.decode import Delivery
from shared.messaging.intake import IncomingMessage, Lost
from shared.messaging.lane import Lane, TooLong, confirm_replay, load, send
from shared.messaging.outcomes import log_outcome
from shared.observability import metrics, tracing
from shared.persistence.database import is_outage


class Batch:
    """Does what arrived a batch at a time, each batch as one transaction."""

    def __init__(self, lane: Lane, at_once: int) -> None:
        self._lane, self._at_once = lane, at_once
        self._outbox, self._failures, self._forward = lane.outbox, lane.failures, lane.forwarding.forward
        self._intake, self._wait_out = lane.intake, lane.pause.wait_out

    def running(self) -> AbstractAsyncContextManager[object]:
        return nullcontext()

    async def room(self) -> int:
        return self._at_once

    async def is_busy(self) -> bool:
        return False

    def stop(self) -> None:
        """Whatever was taken is done."""

    def measure(self) -> None:
        self._lane.measure(lambda: self._lane.pause.why is not None)

    def warnings(self) -> list[str]:
        return list(filter(None, [self._failures.warning()]))

    async def work(self, raws: Sequence[IncomingMessage]) -> None:
        """Give each delivery its outcome and acknowledge it at once, so that it does not come again if the rest of the
        batch is interrupted or repeated. What is good is done before what failed is sent on."""
        started = time.perf_counter()
        readable, copies = self._lane.read(raws)
        for is_suspect, group in itertools.groupby(readable, lambda delivery: bool(delivery.raw.redelivered)):
            copies += await (self._run_suspects if is_suspect else self._run)(list(group))
        await self._forward(copies)
        metrics.of(metrics.BATCH_SIZE, *self._lane.labels).observe(len(raws))
        metrics.of(metrics.BATCH_SECONDS, *self._lane.labels).observe(time.perf_counter() - started)

    async def _run(self, deliveries: Sequence[Delivery]) -> list[Copy]:
        """Commit a batch; return the copies to send on of those that failed.

        A message whose handler failed is tried by itself; if no handler failed, the batch is halved. Only a message
        that fails by itself counts an attempt.
        """
        try:
            with tracing.together(
                f"batch {self._lane.name}", [delivery.envelope.traceparent for delivery in deliveries]
            ):
                await self._wait_out(deliveries[0].raw, self._commit, deliveries)
        except Lost:
            raise
        except Exception as error:
            if isinstance(error, HandlersFailed) and isinstance(_cause_of(error), TooLong):
                await self._forward([self._failures.failed(error.deliveries[0], _cause_of(error))])
                rest = [delivery for delivery in deliveries if delivery is not error.deliveries[0]]
                return await self._run(rest) if rest else []
            if len(deliveries) == 1:
                return [self._failures.failed(deliveries[0], _cause_of(error))]
            return [copy for part in _parts(deliveries, error) for copy in await self._run(part)]
        await self._intake.acknowledge([delivery.raw for delivery in deliveries])
        return []

    async def _commit(self, deliveries: Sequence[Delivery]) -> None:
        """The algorithm: claim, load, handle, write, commit - one transaction for all."""
        began = time.time()
        first = {delivery.envelope.message_id: delivery for delivery in reversed(deliveries)}
        async with self._outbox.unit() as unit:
            new = await inbox.claim(unit.session, self._lane.name, first)
            todo = [d for d in deliveries if d.envelope.message_id in new and first[d.envelope.message_id] is d]
            await load(unit, todo)
            blame = Blame()
            for delivery in todo:
                with blame.of(delivery), tracing.handling(self._lane.name, delivery.envelope) as unit.cause:
                    send(unit, await self._lane.handle(delivery, unit))
            blame.check()
            for delivery in deliveries:
                confirm_replay(delivery, unit)
            if deliveries[0].raw.redelivered:
                await inbox.end_attempts(unit.session, self._lane.name, list(first))
        for delivery in deliveries:
            is_new = delivery.envelope.message_id in new and first[delivery.envelope.message_id] is delivery
            self._lane.log_done(delivery, began, is_new=is_new)

    async def _run_suspects(self, deliveries: Sequence[Delivery]) -> list[Copy]:
        """What comes again may have killed its process: see `shared.messaging.suspects`."""
        done, tries = await self._wait_out(deliveries[0].raw, self._look_up, deliveries)
        if known := [delivery for delivery in deliveries if delivery.envelope.message_id in done]:
            for delivery in known:
                log_outcome(self._lane.name, "duplicate", delivery.envelope)
            await self._intake.acknowledge([delivery.raw for delivery in known])
        rest = [delivery for delivery in deliveries if delivery.envelope.message_id not in done]
        for group in suspects.groups(rest, lambda d: tries.get(d.envelope.message_id, 1), self._at_once):
            await self._try_together(group)
        return []

    async def _look_up(self, deliveries: Sequence[Delivery]) -> tuple[set[str], dict[str, int]]:
        """Which messages are done; and of the others that were tried before, how many tries this one would make."""
        ids = {delivery.envelope.message_id for delivery in deliveries}
        async with self._outbox.unit() as unit:
            done = await inbox.done(unit.session, self._lane.name, ids)
            await inbox.end_attempts(unit.session, self._lane.name, done)  # copies of them may have been done elsewhere
            for delivery in deliveries:
                if delivery.envelope.message_id in done:
                    confirm_replay(delivery, unit)
            return done, await inbox.tries(unit.session, self._lane.name, ids - done, self._outbox.owner)

    async def _try_together(self, group: Sequence[Delivery]) -> None:
        """Write the attempts down before the try. One without an outcome counts only once this process is dead."""
        tries = await self._wait_out(group[0].raw, self._begin, group)
        try:
            killers = [d for d in group if suspects.is_killer(tries[d.envelope.message_id].tries)]
            copies = [self._failures.failed(delivery, suspects.killer()) for delivery in killers]
            if innocent := [delivery for delivery in group if delivery not in killers]:
                copies += await self._run(innocent)
            await self._forward(copies)
        except BaseException:
            await self._lane.give_back({delivery.envelope.message_id for delivery in group})
            raise

    async def _begin(self, group: Sequence[Delivery]) -> dict[str, inbox.Attempt]:
        ids = {delivery.envelope.message_id for delivery in group}
        async with self._outbox.unit() as unit:
            return await inbox.begin_attempts(unit.session, self._lane.name, ids, self._outbox.owner)


class HandlersFailed(Exception):
    """Handlers of a batch failed: the others can be done without these."""

    def __init__(self, deliveries: Sequence[Delivery]) -> None:
        super().__init__()
        self.deliveries = deliveries


class Blame:
    """Which messages of a batch fail in their handlers. All are called, though nothing will be committed: so one more
    try does what is good, however much is bad. A failure of the database's says nothing about the message in hand."""

    def __init__(self) -> None:
        self._found: list[tuple[Delivery, Exception]] = []

    @contextlib.contextmanager
    def of(self, delivery: Delivery) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if isinstance(error, TooLong):  # the transaction may be broken, and nobody waits so long a second time
                raise HandlersFailed([delivery]) from error
            if isinstance(error, SQLAlchemyError) or is_outage(error):
                raise
            self._found.append((delivery, error))

    def check(self) -> None:
        """Raises `HandlersFailed`, because of the first error."""
        if self._found:
            raise HandlersFailed([delivery for delivery, _ in self._found]) from self._found[0][1]


def _cause_of(error: Exception) -> Exception:
    cause = error.__cause__ if isinstance(error, HandlersFailed) else None
    return cause if isinstance(cause, Exception) else error


def _parts(deliveries: Sequence[Delivery], error: Exception) -> list[Sequence[Delivery]]:
    """What to try of a batch that failed: each that failed in its handler by itself, and the rest; or its halves."""
    if isinstance(error, HandlersFailed):
        blamed = {id(delivery) for delivery in error.deliveries}
        rest = [delivery for delivery in deliveries if id(delivery) not in blamed]
        return [*([rest] if rest else []), *([delivery] for delivery in error.deliveries)]
    middle = len(deliveries) // 2
    return [deliveries[:middle], deliveries[middle:]]
