"""The processor of a lane's dead letters. It does not decode them, and dead-letters none of them."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

from contracts.flow import COLLECTOR
from shared.messaging.intake import IncomingMessage, Intake, Lost, is_lost
from shared.messaging.outbox import Outbox
from shared.messaging.pause import Pause
from shared.messaging.unit import UnitOfWork
from shared.observability import metrics

Keep = Callable[[Sequence[IncomingMessage], str, UnitOfWork], Awaitable[None]]


class Collect:
    """Passes each batch to one function in one transaction, and acknowledges the batch after the commit."""

    def __init__(self, queue: str, keep: Keep, outbox: Outbox, intake: Intake, pause: Pause, at_once: int) -> None:
        self._queue, self._keep, self._outbox, self._at_once = queue, keep, outbox, at_once
        self._intake, self._pause = intake, pause

    def running(self) -> AbstractAsyncContextManager[object]:
        return nullcontext()

    async def room(self) -> int:
        return self._at_once

    async def work(self, raws: Sequence[IncomingMessage]) -> None:
        if any(map(is_lost, raws)):
            raise Lost
        await self._pause.wait_out(raws[0], self._commit, raws)
        await self._intake.acknowledge(raws)

    async def _commit(self, raws: Sequence[IncomingMessage]) -> None:
        async with self._outbox.unit() as unit:
            await self._keep(raws, self._queue, unit)

    async def is_busy(self) -> bool:
        return False

    def stop(self) -> None:
        """Do nothing: all deliveries that were taken are stored."""

    def measure(self) -> None:
        """Do nothing: the age of dead letters is no measure of a lane."""
        waits = metrics.of(metrics.LANE_PAUSED, COLLECTOR, self._queue)
        waits.set_function(lambda: float(self._pause.why is not None))

    def warnings(self) -> list[str]:
        return []
