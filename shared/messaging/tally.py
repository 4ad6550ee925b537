"""What one lane has done in this process."""

from dataclasses import dataclass

LATELY = 0.05
"""The share of the newest message in the mean: it is about that of the last twenty."""


@dataclass(slots=True)
class Tally:
    """Counted since the process started."""

    done: int = 0
    failed: int = 0
    """Attempts that failed, and messages that were dead-lettered."""
    busy_seconds: float = 0.0
    """In handlers; several can run at a time."""
    mean_seconds: float | None = None
    """In the handler per message, lately."""

    def handled(self, seconds: float) -> None:
        """A handler has come back after so long."""
        self.busy_seconds += seconds
        before = self.mean_seconds
        self.mean_seconds = seconds if before is None else before + LATELY * (seconds - before)
