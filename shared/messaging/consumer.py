"""The consumer of a queue: it takes deliveries, gives them to its processor in batches, and pauses in outages.

The processor decides what happens to a batch: `batch` commits it as one transaction, `concurrent` runs work outside the
database, `collect` keeps dead letters.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import structlog

from contracts.processes import LaneSeen
from shared.messaging.causes import cause_of, one_line
from shared.messaging.decode import key_of
from shared.messaging.handler import Handler
from shared.messaging.intake import IncomingMessage, Intake, Lost, is_lost
from shared.messaging.pace import Pace
from shared.messaging.pause import Pause
from shared.messaging.tally import Tally
from shared.observability import metrics
from shared.persistence.database import Backoff

log = structlog.get_logger(__name__)

ENDED = "the lane has ended: this process has to be started again"


class Processor(Protocol):
    """Handles the batches of a consumer."""

    def running(self) -> AbstractAsyncContextManager[object]:
        """Around all work."""

    async def room(self) -> int:
        """Wait until another delivery may begin; return the number that may begin now."""

    async def work(self, raws: Sequence[IncomingMessage]) -> None:
        """Give each delivery of a batch its outcome.

        Raises `Lost`. After any other error, which is a fault of the kernel, the deliveries that are still `at_work` in
        the intake begin again.
        """

    async def is_busy(self) -> bool:
        """Whether work goes on after `work` has returned. If so, wait until some of it ends."""

    def stop(self) -> None:
        """Begin nothing more that another process can do as well."""

    def measure(self) -> None:
        """Begin to measure the lane."""

    def warnings(self) -> list[str]:
        """Reasons to look at the lane although it works."""


class Consumer:
    """A queue's deliveries, its processor, and whether it is paused."""

    def __init__(
        self,
        name: str,
        handlers: Mapping[str, Handler],
        processor: Processor,
        intake: Intake,
        pause: Pause,
        prefetch: int,
        handler_seconds: float,
        tally: Tally | None = None,
    ) -> None:
        self.name, self.handlers, self.processor, self.prefetch = name, handlers, processor, prefetch
        self.intake, self.pause = intake, pause
        self.take = intake.take
        self.tally = tally or Tally()
        self._handler_seconds = handler_seconds
        self.pace = Pace()
        self.held: str | None = None
        """Why the lane takes no new deliveries although it could; None while it takes them."""
        self._stopping = False
        self._is_slow = False

    @property
    def paused(self) -> str | None:
        """Why the lane waits for its database or broker; None while it works."""
        return self.pause.why

    @property
    def warning(self) -> str | None:
        """A reason to look at the lane although it works; None if all is well."""
        rate = f"at most {self.pace.rate:g} messages a second, as told" if self.pace.rate else None
        return "; ".join(filter(None, [self.held, rate, *self.processor.warnings(), self._slow()])) or None

    def look_after(self) -> None:
        """Log once that a message has been handled for long. The caller repeats this every few seconds."""
        slow = self._slow()
        if slow and not self._is_slow:
            log.warning("lane: a message is in hand for long", lane=self.name, why=slow)
        self._is_slow = bool(slow)

    def _slow(self) -> str | None:
        """The message that has been handled for longer than half of its handler's limit; None if there is none."""
        oldest = next(iter(self.intake.unanswered()), None)
        if oldest is None or self.paused or self.pace.rate:  # with a rate, messages wait for their turn
            return None
        raw, age = oldest[0], time.monotonic() - oldest[1]
        if age <= self._handler_seconds / 2:
            return None
        return f"{key_of(raw) or metrics.UNREADABLE} {raw.message_id} has been in hand for {age:.0f} s"

    def seen(self) -> LaneSeen:
        """The figures of the lane in this process."""
        tally = self.tally
        return LaneSeen(
            name=self.name,
            in_hand=len(self.intake.unanswered()),
            done=tally.done,
            failed=tally.failed,
            busy_seconds=tally.busy_seconds,
            mean_seconds=tally.mean_seconds,
            rate=self.pace.rate,
            paused=one_line(self.held or self.paused or "") or None,
        )

    def stop(self) -> None:
        """Let `run` return once all that was taken has an outcome."""
        self._stopping = self.pace.stopping = True
        self.processor.stop()
        self.intake.arrived.set()

    async def run(self) -> None:
        """Work until stopped. A fault of the kernel is logged, and the deliveries are tried again."""
        self.processor.measure()
        try:
            async with self.processor.running():
                await self._run_until_stopped()
                while await self.processor.is_busy():
                    await self._run_until_stopped()
        finally:
            self.pause.why = ENDED

    async def _run_until_stopped(self) -> None:
        backoff = Backoff()
        while self.intake.waiting or not self._stopping:
            await self.intake.arrived.wait()
            allowed = await self.pace.room(self.prefetch)
            raws = self.intake.begin(min(allowed, await self.processor.room()))
            self.pace.begun(len(raws))
            try:
                if raws:
                    await self.processor.work(raws)
                backoff.reset()
                self.pause.end()
            except Lost:
                log.info("lane: the broker will deliver again what it took back", lane=self.name)
                self.intake.begin_again(raw for raw in self.intake.at_work if not is_lost(raw))  # of a new channel
            except Exception as error:
                log.exception("lane: cannot settle a batch, trying again", lane=self.name)
                self.pause.begin(f"cannot settle a batch: {cause_of(error)}")
                self.intake.begin_again(self.intake.at_work)
                await backoff.wait()
