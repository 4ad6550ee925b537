"""`malote up` beside a fleet that is there, or is just being started."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.cli import status, up
from deploy.local import fleet, replicas


@pytest.mark.parametrize(("state", "signals"), [({}, 0), ({"supervisor": 4711, "phase": "incomplete"}, 1)])
def test_a_supervisor_that_does_not_obey_yet_is_not_sent_a_signal(
    state: dict[str, Any], signals: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It would end by it, for instance while RabbitMQ is being installed. It reads how many are wanted later."""
    (tmp_path / "supervisor.log").touch()
    here: Any = SimpleNamespace(state=lambda: state, logs=tmp_path)
    sent: list[int] = []
    wanted: list[dict[str, int]] = []
    for place, name, instead in (
        (up, "_LOOKS_WITHIN", 0.0),
        (up, "_follow", lambda *_: None),
        (fleet, "running", lambda _: 4711),
        (status, "look", lambda _: []),
        (status, "all_ready", lambda *_: False),
        (replicas, "change", lambda _, counts: wanted.append(counts)),
        (os, "kill", lambda pid, _: sent.append(pid)),
    ):
        monkeypatch.setattr(place, name, instead)
    up._join(here, {"stock": 2})
    assert wanted == [{"stock": 2}]
    assert sent == [4711] * signals
