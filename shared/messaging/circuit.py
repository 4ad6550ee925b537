"""The circuit of a lane for outside work: open while the server that the work needs is away."""

import structlog

from shared.persistence.database import Backoff

log = structlog.get_logger(__name__)


class Circuit:
    """While the circuit is open, one message at a time is a probe: it tries whether the server is back."""

    def __init__(self, lane: str) -> None:
        self._lane = lane
        self.why: str | None = None
        """Why the circuit is open; None while it is closed."""
        self._probes: set[str] = set()  # probes that have begun since the circuit opened, and not ended
        self._backoff = Backoff()

    def open(self, why: str) -> None:
        if self.why is None:
            log.warning("lane: circuit opened", lane=self._lane, why=why)
        self.why = why

    def close(self) -> None:
        log.info("lane: circuit closed", lane=self._lane)
        self.why = None
        self._probes.clear()
        self._backoff.reset()

    @property
    def is_probing(self) -> bool:
        """Whether the circuit is open and a probe is running."""
        return self.why is not None and bool(self._probes)

    def begin(self, message_id: str) -> None:
        """Note that work on a message begins. It is a probe if the circuit is open."""
        if self.why is not None:
            self._probes.add(message_id)

    def end(self, message_id: str) -> None:
        self._probes.discard(message_id)

    async def wait(self) -> None:
        """Wait before the next probe: longer each time."""
        await self._backoff.wait()
