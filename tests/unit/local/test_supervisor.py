"""What the process that holds the fleet together says of its steps."""

import pytest

from deploy.local.environment import Environment
from deploy.local.supervisor import Supervisor


async def test_a_step_is_said_before_it_is_done_and_again_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMQP_URL", "amqp://127.0.0.1:1/")
    said: list[str] = []
    async with Supervisor(Environment(), said.append, lambda: None)._step("starting the broker", "broker ready"):
        assert said == ["starting the broker"]
    assert said[1].startswith("broker ready (0.")
