"""How `malote processes` shows what a process says, and what it says itself where nobody can be asked."""

from typing import Any

import pytest

from deploy.cli import processes
from deploy.cli.errors import NotRunning

LANE = {"name": "stock", "in_hand": 3, "done": 1200, "failed": 1, "mean_seconds": None, "rate": None, "paused": None}


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        ({}, "stock: 3 in hand, 1,200 done, 1 failed"),
        ({"mean_seconds": 0.00123, "rate": 20.0}, "stock: 3 in hand, 1,200 done, 1 failed, 1.2 ms each, at most 20/s"),
        ({"paused": "paused by an operator"}, "stock: 3 in hand, 1,200 done, 1 failed, paused by an operator"),
    ],
)
def test_a_lane_is_one_line(more: dict[str, Any], shown: str) -> None:
    assert processes._lane(LANE | more) == shown


def test_without_a_broker_it_says_where_it_looked_and_what_starts_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMQP_URL", "amqp://me:my-password@127.0.0.1:9/")
    with pytest.raises(NotRunning, match=r"no connection to the broker at 127\.0\.0\.1:9.*malote up") as refused:
        processes._ask(0.1)
    assert "my-password" not in str(refused.value)
