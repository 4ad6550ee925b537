"""What all tests share: real servers (`tests.servers`) and services running on them (`tests.running`)."""

import asyncio
import functools
import gc
import multiprocessing
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import anyio.to_process
import httpx._transports.default
import pytest
import structlog

pytest_plugins = ["tests.servers", "tests.running"]  # in the order of their imports

# Unless told otherwise, it draws every traceback with all its variables where rich is installed: seconds for each.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)

# Each client would read all authorities of the machine: 30 ms of work, also for addresses without TLS.
httpx._transports.default.create_ssl_context = functools.cache(httpx.create_ssl_context)


# httpcore looks for it four times a request, through all folders that Python imports from: half a millisecond.
sys.modules.setdefault("sniffio", None)  # type: ignore[arg-type]


@functools.cache
def _kept_processes() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))


async def _run_in_a_kept_process(function: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(_kept_processes(), function, *args)


# It starts processes anew for each event loop, so for each test, and they import what formats reports: a second each.
anyio.to_process.run_sync = _run_in_a_kept_process


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Long texts are numbered: a token names another time in each worker, which xdist takes for other tests."""
    return argname if isinstance(val, str) and len(val) > 100 else None


def pytest_collectstart() -> None:
    gc.disable()  # it takes seconds, until all tests are collected


def pytest_collection_finish(session: pytest.Session) -> None:
    if twice := [name for name, number in Counter(item.nodeid for item in session.items).items() if number > 1]:
        raise pytest.UsageError(f"several tests have one name, and xdist would run one of them: {twice}")
    gc.collect()
    gc.freeze()  # or each full collection goes through all that was imported
    gc.enable()
