"""A loop that stands still ends its process; one that was only frozen with it, or is slow, does not."""

import threading
import time

import pytest
from structlog.testing import capture_logs

from shared.messaging import watchdog
from shared.messaging.watchdog import STATUS, Watchdog


def test_a_loop_that_stands_still_ends_the_process_and_the_log_says_where() -> None:
    ended: list[int] = []
    over = threading.Event()

    def end(status: int) -> None:
        ended.append(status)
        over.set()

    with capture_logs() as lines:
        Watchdog(0.1, step=0.02, end=end).start()
        assert over.wait(20)
    assert ended == [STATUS]
    assert "over.wait(20)" in lines[-1]["where"], "where this thread was"


def test_a_loop_that_stands_for_a_while_is_only_spoken_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "SAY_AFTER", 0.05)
    ended: list[int] = []
    with capture_logs() as lines:
        dog = Watchdog(1_000, step=0.01, end=ended.append)
        dog.start()
        end = time.monotonic() + 20
        while not lines and time.monotonic() < end:
            time.sleep(0.01)
        dog.stop()
    assert [line["event"] for line in lines] == ["the event loop stands still"]
    assert not ended
