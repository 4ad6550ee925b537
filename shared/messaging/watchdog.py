"""Ends a process whose event loop stands still: a handler that blocks it can neither be cancelled nor seen from inside.

A thread counts the seconds in which it runs and the loop does not. So a process that was frozen as a whole, such as by
SIGSTOP or with its machine, is not taken for one that is blocked. What blocks the thread too, which is C code that
keeps Python's lock, is left to whoever asks `/livez`.
"""

import os
import sys
import threading
import traceback
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

SAY_AFTER = 10
STATUS = 70  # EX_SOFTWARE


class Watchdog:
    """Watches the loop of the thread that makes it, from `start` on. `tick` has to be called there all the time."""

    def __init__(self, seconds: float, step: float = 1.0, end: Callable[[int], object] = os._exit) -> None:
        self._most, self._step, self._end = seconds, step, end
        self._main = threading.get_ident()
        self._ticks = 0
        self._stopped = threading.Event()

    def tick(self) -> None:
        """The loop is alive."""
        self._ticks += 1

    def start(self) -> None:
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        seen, still = 0, 0.0
        while not self._stopped.wait(self._step):
            if self._ticks != seen:
                seen, still = self._ticks, 0.0
                continue
            still += self._step
            if still >= self._most:
                self._say("the event loop stood still for too long: this process ends", still)
                self._end(STATUS)
                return
            if still - self._step < SAY_AFTER <= still:
                self._say("the event loop stands still", still)

    def _say(self, what: str, seconds: float) -> None:
        frame = sys._current_frames().get(self._main)
        where = "".join(traceback.format_stack(frame)[-8:]) if frame else "unknown"
        log.error(what, seconds=round(seconds), where=where)
