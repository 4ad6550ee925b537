"""The processor of a lane's dead letters: nothing is decoded, nothing is judged, nothing is given up."""

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
    """Hands what arrived to one function, a batch in one transaction, and acknowledges it after the commit."""

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
        """Whatever was taken is kept."""

    def measure(self) -> None:
        """Not the age of its messages: dead letters are old."""
        waits = metrics.of(metrics.LANE_PAUSED, COLLECTOR, self._queue)
        waits.set_function(lambda: float(self._pause.why is not None))

    def warnings(self) -> list[str]:
        return []
