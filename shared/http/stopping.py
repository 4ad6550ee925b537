"""Ends the waits of clients when the process begins to stop: they are answered at once, with the present state."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Stopping:
    """Whether a process has begun to stop, and the waits that end then."""

    def __init__(self) -> None:
        self.has_begun = False
        self._waits: set[asyncio.Timeout] = set()

    def begin(self) -> None:
        """End all waits. A second call changes nothing."""
        self.has_begun = True
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(0)

    @asynccontextmanager
    async def wait(self, seconds: float | None = None) -> AsyncIterator[asyncio.Timeout]:
        """Around a wait. Raises TimeoutError after so many seconds, and as soon as the process begins to stop."""
        async with asyncio.timeout(0 if self.has_begun else seconds) as wait:
            self._waits.add(wait)
            try:
                yield wait
            finally:
                self._waits.discard(wait)
