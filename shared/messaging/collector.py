"""The consumer of a lane's dead letters: nothing is decoded, nothing is judged, nothing is given up."""

from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from contracts.flow import COLLECTOR
from shared.messaging.decode import Raw, is_lost
from shared.messaging.intake import Intake, Lost
from shared.messaging.outbox import Outbox
from shared.messaging.retry import Failures
from shared.messaging.unit import UnitOfWork
from shared.observability import metrics

Collect = Callable[[Sequence[Raw], str, UnitOfWork], Awaitable[None]]


class Collector(Intake):
    """Hands what arrived to one function, a batch in one transaction, and acknowledges it after the commit."""

    def __init__(self, name: str, collect: Collect, outbox: Outbox, batch_limit: int) -> None:
        super().__init__(name, {}, outbox, cast(Failures, None), batch_limit)
        self._collect = collect

    def _measure(self) -> None:
        """Without its messages' age: dead letters are old."""
        metrics.of(metrics.LANE_PAUSED, COLLECTOR, self.name).set_function(lambda: float(self.paused is not None))

    def _warnings(self) -> list[str]:
        return []

    async def _work(self, raws: Sequence[Raw]) -> None:
        if any(map(is_lost, raws)):
            raise Lost
        await self._steadily(raws[0], self._keep, raws)
        await self._acknowledge(raws)

    async def _keep(self, raws: Sequence[Raw]) -> None:
        async with self._outbox.unit() as unit:
            await self._collect(raws, self.name, unit)
