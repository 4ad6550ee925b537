"""What all tests share: real servers (`tests.servers`) and services running on them (`tests.running`)."""

import gc
from typing import Any

import pytest
import structlog
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ["tests.running", "tests.servers"]

# Unless told otherwise, it draws every traceback with all its variables where rich is installed: seconds for each.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


def pytest_collectstart() -> None:
    gc.disable()  # it takes seconds, until all tests are collected


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # or each full collection goes through all that was imported
    gc.enable()


class OneFleet(LoadScopeScheduling):  # type: ignore[misc]
    """Each test goes to whichever worker is free; those of the fleet to one, so that one fleet is started. (The marks
    of `--dist loadgroup` are lost on pytest 9.2, without a word.)"""

    def _split_scope(self, nodeid: str) -> str:
        return "tests/e2e" if nodeid.startswith("tests/e2e/") else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneFleet:
    return OneFleet(config, log)
