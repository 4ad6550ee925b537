"""What `malote lanes` makes of what the broker and the services say."""

import io
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from contracts.broker import queue_of
from contracts.flow import LANES
from deploy.cli import lanes, output
from deploy.local.environment import Environment
from deploy.local.management import Management
from deploy.local.readiness import Readiness

METRICS = """\
# HELP malote_lane_oldest_seconds …
malote_lane_oldest_seconds{lane="email.outgoing",service="email"} 312.5
malote_lane_retrying{lane="email.outgoing",service="email"} 40.0
malote_lane_oldest_seconds{lane="email",service="email"} 0.0
malote_dead_letters{lane="stock"} 3.0
malote_messages_total{lane="email",message="m",outcome="done",service="email"} 7.0
"""


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Environment:
    monkeypatch.setenv("MALOTE_DATA", str(tmp_path))
    queues = {queue_of(lane): {"messages": 0, "consumers": 1} for lane in LANES}
    queues[queue_of("email.outgoing")] = {"messages": 41, "consumers": 0}
    monkeypatch.setattr(Management, "queues", lambda _: {**queues, "wait.30s": {"messages": 40}})
    warns = {"lane email.outgoing": "retried 40 times, lastly because of: timed out"}

    def ready(url: str) -> Readiness:
        if url.endswith(":8001"):
            return Readiness(False, {"lane orders": "attempt to write a readonly database"}, {})
        return Readiness(True, {}, warns if url.endswith(":8003") else {})

    def metrics(url: str, **_: Any) -> httpx.Response:
        if ":8002" in url:
            raise httpx.ConnectError("nobody there")
        return httpx.Response(200, text=METRICS)

    monkeypatch.setattr("deploy.local.readiness.readiness", ready)
    monkeypatch.setattr("httpx.get", metrics)
    return Environment()


def test_each_lane_has_its_depth_age_retries_letters_and_consumers(here: Environment) -> None:
    found = lanes.look(here)
    by_name = {lane["lane"]: lane for lane in found["lanes"]}
    assert list(by_name) == list(LANES)
    assert by_name["email.outgoing"] == {
        "lane": "email.outgoing", "depth": 41, "in_hand": 0, "oldest_seconds": 312.5, "retrying": 40,
        "dead_letters": None, "consumers": 0, "paused": None,
        "warning": "retried 40 times, lastly because of: timed out",
    }  # fmt: skip
    assert by_name["stock"]["dead_letters"] == 3
    assert by_name["stock"]["oldest_seconds"] is None, "its service does not answer"
    assert by_name["orders"]["paused"] == "attempt to write a readonly database"
    assert found["waiting"] == {"wait.30s": 40}


def test_it_is_read_at_80_columns(
    here: Environment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(output, "console", lambda: Console(file=out, width=80))
    monkeypatch.setattr(lanes, "console", output.console)
    lanes._show(lanes.look(here))
    said = out.getvalue().splitlines()
    assert all(len(line) <= 80 for line in said)
    (row,) = [line for line in said if line.startswith("email.outgoing ")]
    assert row.split() == ["email.outgoing", "41", "5", "min", "40", "?", "0", "look"]
    assert "orders: attempt to write a readonly database" in said
    assert capsys.readouterr().out == "40 messages to be tried again later: 40 in wait.30s\n"


@pytest.mark.parametrize(("seconds", "said"), [(0, "0 s"), (119.6, "120 s"), (312, "5 min"), (86_400, "24 h")])
def test_an_age_is_as_short_as_a_glance(seconds: float, said: str) -> None:
    assert lanes.age(seconds) == said
