"""What `malote status` shows of what runs, and `malote restart` and `malote scale` of what they wait for."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deploy.cli import restart, up
from deploy.cli.app import app
from deploy.cli.errors import Failed, NotRunning
from deploy.local import fleet, processes, replicas
from deploy.local.environment import Environment
from deploy.local.files import write_private
from deploy.local.ports import HOST
from deploy.local.readiness import Readiness
from tests.unit.local.running import sleeper

SINCE = "2026-11-02T14:30:00+00:00"
WELL = Readiness(True, {}, {})


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Environment]:
    """A fleet of processes that are all this one, whose broker and mail server answer."""
    monkeypatch.setenv("MALOTE_DATA", str(tmp_path))
    monkeypatch.delenv("AMQP_URL", raising=False)
    with socket.create_server((HOST, 0)) as broker, socket.create_server((HOST, 0)) as mail:
        for name, server in (("MALOTE_AMQP_PORT", broker), ("MALOTE_SMTP_PORT", mail)):
            monkeypatch.setenv(name, str(server.getsockname()[1]))
        here = Environment()
        entry = {"pid": os.getpid(), "restarts": 2, "since": SINCE}
        services = [entry | {"name": name, "port": here.port_of(name)} for name in here.services]
        mail_, watch = entry | {"name": "mail", "port": here.smtp_port}, entry | {"name": "watch", "port": 0}
        write(here, supervisor=os.getpid(), phase="ready", broker=os.getpid(), broker_restarts=1)
        write(here, services=services, mail=mail_, watch=watch)
        monkeypatch.setattr(fleet, "running", lambda _: os.getpid())
        monkeypatch.setattr("deploy.local.readiness.readiness", lambda _: WELL)
        yield here


def write(here: Environment, **changed: Any) -> None:
    """Change what the supervisor has written down."""
    write_private(here.state_file, json.dumps(here.state() | changed))


def test_all_that_was_started_is_listed_and_each_line_fits_a_terminal(here: Environment) -> None:
    done = CliRunner().invoke(app, ["status"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()[1 : len(here.services) + 5]
    rows = {line.split()[0]: line.split() for line in lines}
    assert [*rows] == [*here.services, "supervisor", "broker", "mail", "watch"]
    assert rows["broker"][1:5] == [str(os.getpid()), str(here.node("").amqp_port), "yes", "1"]
    assert rows["mail"][2:5] == [str(here.smtp_port), "yes", "2"]
    assert all(len(line) <= 80 for line in done.stdout.splitlines() if not line.startswith("mailbox"))


def test_what_runs_beside_the_services_and_does_not_answer_is_told_why(here: Environment) -> None:
    with sleeper() as frozen:
        frozen.send_signal(signal.SIGSTOP)
        assert processes.until(lambda: processes.is_stopped(frozen.pid), 5)
        write(here, mail=here.state()["mail"] | {"pid": frozen.pid}, broker=None, watch=None)
        said = CliRunner().invoke(app, ["status"])
        assert said.exit_code == 1
        assert "mail: process: its process is stopped" in said.stdout
        assert "broker: process: it does not run" in said.stdout
    found = json.loads(CliRunner().invoke(app, ["status", "--json"]).stdout)
    assert {other["name"]: other["ready"] for other in found["others"]} == {
        "supervisor": True, "broker": False, "mail": False,
    }  # fmt: skip


@pytest.fixture
def supervised(here: Environment, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """A supervisor that, once told, has the processes that are wanted."""

    def take_in(pid: int, told: signal.Signals) -> None:
        assert (pid, told) == (os.getpid(), signal.SIGUSR1)
        counts = replicas.wanted(here)
        first = {"pid": pid, "restarts": 0, "since": SINCE, "port": 20_001}
        write(here, services=[first | {"name": name} for name in replicas.names(here.services, counts)])
        write(here, replicas=counts)
        with (here.logs / "supervisor.log").open("a") as log:
            log.write("2026-11-02T14:30:00+00:00 services ready (1.0 s)\n")

    here.logs.mkdir()
    (here.logs / "supervisor.log").touch()
    monkeypatch.setattr(up.os, "kill", take_in)
    return here


def test_a_service_is_scaled_by_telling_the_supervisor_and_waiting_until_it_is_done(supervised: Environment) -> None:
    done = CliRunner().invoke(app, ["scale", "stock=3", "orders=1"])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "services ready (1.0 s)", "stock: 3 ready, at 20001, 20001, 20001", "orders: 1 ready, at 20001",
    ]  # fmt: skip
    found = json.loads(CliRunner().invoke(app, ["scale", "stock=2", "--json"]).stdout)["services"]
    assert [(one["name"], one["service"], one["replica"]) for one in found] == [
        ("stock", "stock", 0), ("stock-1", "stock", 1),
    ]  # fmt: skip


def test_a_fleet_is_not_ready_until_the_supervisor_has_what_was_asked_for(supervised: Environment) -> None:
    assert CliRunner().invoke(app, ["status"]).exit_code == 0
    replicas.change(supervised, {"stock": 2})
    assert CliRunner().invoke(app, ["status"]).exit_code == 1


@pytest.mark.parametrize("given", ["nope=2", "stock=0", "stock=1000", "stock"])
def test_a_number_of_processes_that_cannot_be_is_refused_and_nothing_is_changed(here: Environment, given: str) -> None:
    for command in (["scale", given], ["up", "--detach", "--replicas", given]):
        refused = CliRunner().invoke(app, command)
        assert refused.exit_code == 2
        assert f"'{given}':" in refused.output
    assert not here.replicas_file.exists()


def test_without_a_fleet_nothing_can_be_scaled(here: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "running", lambda _: 0)
    refused = CliRunner().invoke(app, ["scale", "stock=2"])
    assert isinstance(refused.exception, NotRunning)


@pytest.fixture
def restarted(here: Environment, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the service orders answers once it was ended, one after the other; then it is ready."""
    answers: list[Any] = []
    with sleeper() as ended:
        ended.kill()
        ended.wait()
    services = here.state()["services"]
    write(here, services=[entry | {"pid": ended.pid} if entry["name"] == "orders" else entry for entry in services])
    monkeypatch.setattr("deploy.local.readiness.readiness", lambda _: answers.pop(0) if answers else WELL)

    def is_started(*_: Any) -> None:
        write(here, services=services)

    monkeypatch.setattr(processes, "signal_group", is_started)
    return answers


def test_a_restart_says_what_it_waits_for_once_for_each_change(restarted: list[Any]) -> None:
    silent = Readiness(False, {}, {}, silence="Connection refused")
    unready = Readiness(False, {"lane orders": "queue 'lane.orders' is not consumed"}, {})
    restarted += [silent, silent, unready, unready]
    said = CliRunner().invoke(app, ["restart", "orders"])
    assert said.exit_code == 0, said.output
    began, silent_, unready_, back = said.stdout.splitlines()
    assert began.startswith("orders: waits until pid ")
    assert silent_ == f"orders: pid {os.getpid()} runs; waits until it answers"
    assert unready_.endswith("waits until it is ready (lane orders: queue 'lane.orders' is not consumed)")
    assert back.startswith("orders is back after 0 s")


def test_a_restart_for_a_program_prints_json_alone_and_one_that_fails_says_what_it_waited_for(
    restarted: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    restarted.append(Readiness(False, {}, {}, silence="Connection refused"))
    assert json.loads(CliRunner().invoke(app, ["restart", "orders", "--json"]).stdout)["name"] == "orders"
    monkeypatch.setattr(restart, "_BACK_SECONDS", 0)
    monkeypatch.setattr(fleet, "GRACE", 0)
    monkeypatch.setattr(restart, "_awaited", lambda *_: "waits until it answers")
    failed = CliRunner().invoke(app, ["restart", "mail"])
    assert isinstance(failed.exception, Failed)
    assert "waits until it answers; `malote doctor` says what is wrong" in str(failed.exception)
