"""What the process that holds the fleet together says of its steps, and which processes it ends."""

import os
from pathlib import Path

import pytest

from deploy.local import replicas
from deploy.local.children import Children
from deploy.local.environment import Environment
from deploy.local.supervisor import Supervisor


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Environment:
    monkeypatch.setenv("AMQP_URL", "amqp://127.0.0.1:1/")
    monkeypatch.setenv("MALOTE_DATA", str(tmp_path))
    here = Environment()
    here.make_folders()
    return here


async def test_a_step_is_said_before_it_is_done_and_again_with_its_time(here: Environment) -> None:
    said: list[str] = []
    async with Supervisor(here, said.append, lambda: None, Children(None))._step("starting the broker", "broker ready"):
        assert said == ["starting the broker"]
    assert said[1].startswith("broker ready (0.")


async def test_the_last_replicas_are_ended_and_are_not_started_again(here: Environment) -> None:
    said: list[str] = []
    supervisor = Supervisor(here, said.append, lambda: None, Children(None))
    try:
        for name in replicas.names(["orders", "stock"], {"stock": 3}):
            port = supervisor._another_port()
            await supervisor._start(name, f"http.server {port}", port, dict(os.environ))
        before = here.state()["services"]
        assert [one["name"] for one in before] == ["orders", "stock", "stock-1", "stock-2"]
        assert len({one["port"] for one in before}) == len(before)
        supervisor._counts = {"stock": 1}
        await supervisor._drain()
        supervisor._enter("ready")
        assert here.state()["services"] == before[:2]
        assert [line.partition(" (")[0] for line in said] == ["stopping stock-1, stock-2", "stock-1, stock-2 stopped"]
    finally:
        await supervisor._tear_down()
    assert not here.state_file.exists()


def test_a_further_process_has_its_own_port_and_the_services_database_and_login(here: Environment) -> None:
    supervisor = Supervisor(here, print, lambda: None, Children(None))
    first, further = here.environment_of("stock"), supervisor._environment_of("stock", 20_001)
    assert first | {"STOCK_PORT": "20001"} == further
    assert "sqlite" in further["STOCK_DATABASE_URL"]
    assert further["STOCK_AMQP_URL"].startswith("amqp://stock:")


async def test_a_damaged_file_of_how_many_are_wanted_is_said_and_what_runs_goes_on(here: Environment) -> None:
    said: list[str] = []
    supervisor = Supervisor(here, said.append, lambda: None, Children(None))
    try:
        port = supervisor._another_port()
        await supervisor._start("stock", f"http.server {port}", port, dict(os.environ))
        before = here.state()["services"]
        here.replicas_file.write_text("[]")
        await supervisor._look_again()
        assert said[-1].startswith(f"not everything is up: {here.replicas_file}: it is JSON of another shape. ")
        assert (here.state()["services"], here.state()["phase"]) == (before, "incomplete")
    finally:
        await supervisor._tear_down()
