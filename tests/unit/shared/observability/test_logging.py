"""What a log line carries, and what it must not."""

import io
import json
import logging as standard
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider

from contracts.base import Envelope
from shared.config.settings import ServiceSettings
from shared.observability import logging, tracing

Said = Callable[[], dict[str, Any]]
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class StockSettings(ServiceSettings):
    name = "stock"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[Said]:
    """The last line that was logged; everything is as it was after the test."""
    root, written = standard.getLogger(), io.BytesIO()
    handlers, level, before = root.handlers[:], root.level, structlog.get_config()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written))
    logging.configure(StockSettings(_env_file=None, log_format="json"))
    yield lambda: json.loads(written.getvalue().splitlines()[-1])
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.contextvars.clear_contextvars()
    structlog.configure(**before)


def an_envelope() -> Envelope:
    return Envelope("m-1", "job-1", "order.placed.v1", "orders", datetime.now(UTC), traceparent=PARENT)


_ON_A_FULL_DISK = """
import logging, structlog
from shared.observability import logging as ours
from shared.config.settings import ServiceSettings

class StockSettings(ServiceSettings):
    name = "stock"

ours.configure(StockSettings(_env_file=None, log_format="{form}"))
structlog.get_logger().warning("no room")
logging.getLogger("a library").error("no room")
raise SystemExit(7)
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_line_for_which_there_is_no_room_fails_nothing(form: str) -> None:
    with Path("/dev/full").open("wb") as full:
        told = {**os.environ, "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-c", _ON_A_FULL_DISK.format(form=form)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=told, check=False)
    assert (done.returncode, done.stderr) == (7, "")


def test_a_lines_time_is_utc_and_says_so_wherever_the_machine_is(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/Sao_Paulo")
    time.tzset()
    try:
        for logger in (structlog.get_logger(), standard.getLogger("a library")):
            logger.warning("now")
            at = said()["timestamp"]
            assert at.endswith("Z")
            assert abs(datetime.fromisoformat(at) - datetime.now(UTC)) < timedelta(minutes=1)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_handlers_own_line_says_which_message_it_had_in_hand(said: Said) -> None:
    log = structlog.get_logger()
    with tracing.handling("stock", an_envelope()):
        log.info("thinking")
    line = said()
    assert (line["message_id"], line["correlation_id"], line["service"]) == ("m-1", "job-1", "stock")
    assert "trace_id" not in line
    log.info("idle")
    assert "message_id" not in said()


def test_a_traced_line_says_its_trace(said: Said) -> None:
    before = tracing.tracer_of_service.set(TracerProvider().get_tracer("test"))
    try:
        with tracing.handling("stock", an_envelope()):
            structlog.get_logger().info("thinking")
    finally:
        tracing.tracer_of_service.reset(before)
    assert said()["trace_id"] == PARENT[3:35]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("550 5.1.1 <ana.souza+1@example.com>: unknown", "550 5.1.1 <***@example.com>: unknown"),
        ("amqp://stock:pa55word@broker:5672/", "amqp://stock:***@broker:5672/"),
        ("no address", "no address"),
    ],
)
def test_addresses_and_logins_in_others_words_are_not_kept(text: str, kept: str, said: Said) -> None:
    structlog.get_logger().warning("retried", error=text)
    assert said()["error"] == kept


def test_a_traceback_has_no_address_in_it_either(said: Said) -> None:
    try:
        raise ValueError("no mailbox for ana@example.com")
    except ValueError:
        structlog.get_logger().exception("failed")
    line = said()
    assert "no mailbox for ***@example.com" in line["exception"]
    assert "ana" not in line["exception"]


def test_a_line_is_written_whatever_is_in_it(said: Said) -> None:
    structlog.get_logger().info("answered", text="caf\udce9", number=2**70)
    assert (said()["text"], said()["number"]) == ("caf\udce9", 2**70)
