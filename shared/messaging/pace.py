"""How many messages a second a lane may begin."""

import asyncio
import time

STEP_SECONDS = 0.1


class Pace:
    """A token bucket of one second's messages, or of one message where the rate is lower."""

    def __init__(self) -> None:
        self.stopping = False
        """Whether taken messages are finished without a limit, because the process stops."""
        self.rate = None

    @property
    def rate(self) -> float | None:
        """Messages a second; None without a limit."""
        return self._rate

    @rate.setter
    def rate(self, rate: float | None) -> None:
        self._rate, self._tokens, self._at = rate, 0.0, time.monotonic()

    async def room(self, most: int) -> int:
        """Wait until a message may begin; return how many of `most` may begin now."""
        while self._rate is not None and not self.stopping:
            now = time.monotonic()
            self._tokens = min(max(self._rate, 1.0), self._tokens + (now - self._at) * self._rate)
            self._at = now
            if self._tokens >= 1:
                return min(most, int(self._tokens))
            await asyncio.sleep(min(STEP_SECONDS, (1 - self._tokens) / self._rate))  # the rate may change meanwhile
        return most

    def begun(self, number: int) -> None:
        """Note that so many messages have begun."""
        if self._rate is not None:
            self._tokens -= number
