"""A lane pauses while a step cannot be done because the database or the broker is gone: the step is repeated, and no
attempt is counted. A lane without a broker that has nothing to do is not paused: readiness says that its queue is not
consumed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog

from shared.messaging.causes import cause_of, is_cancelled
from shared.messaging.intake import IncomingMessage, Lost, is_lost
from shared.persistence.database import Backoff, is_outage

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Pause:
    """Whether one lane is paused."""

    def __init__(self, lane: str) -> None:
        self._lane = lane
        self.why: str | None = None
        """Why the lane waits for its database or broker; None while it works."""

    def begin(self, why: str) -> None:
        if self.why is None:
            log.warning("lane: paused", lane=self._lane, why=why)
        self.why = why

    def end(self) -> None:
        if self.why is not None:
            log.info("lane: resumed", lane=self._lane)
        self.why = None

    async def wait_out(self, raw: IncomingMessage | None, step: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Do a step; while the database or the broker is gone, pause and do the step again.

        Raises `Lost` once the broker has taken the delivery `raw` back. Without `raw`, goes on until the step is done.
        """
        backoff = Backoff()
        while True:
            try:
                result = await uncancelled(step(*arguments))
            except Exception as error:
                if not is_outage(error):
                    raise
                self.begin(cause_of(error))
                await backoff.wait()
                if raw and is_lost(raw):
                    raise Lost from error
                continue
            self.end()
            return result


async def uncancelled(work: Awaitable[T]) -> T:
    """Wait for work. Raises RuntimeError if the work is cancelled though this task is not."""
    try:
        return await work
    except asyncio.CancelledError as error:
        if is_cancelled(error):
            raise
        raise RuntimeError("something that it waited for was cancelled") from error
