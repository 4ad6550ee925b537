"""Times as the tables keep them: epoch milliseconds, the same on both databases."""

import time
from datetime import UTC, datetime


def now() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000


def moment(stored: int) -> datetime:
    """A stored time as the contracts have it: aware, in UTC."""
    return datetime.fromtimestamp(stored / 1000, UTC)
