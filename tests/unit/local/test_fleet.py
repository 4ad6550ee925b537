"""One fleet a data folder; what a killed one left is ended, and nothing else."""

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from deploy.cli import up
from deploy.local import fleet, processes
from deploy.local.environment import Environment
from tests.unit.local.running import sleeper


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    monkeypatch.setenv("MALOTE_DATA", str(tmp_path))
    return Environment()


def remember(here: Environment, process: "subprocess.Popen[bytes]", born: float = 0.0) -> None:
    """Write down what a supervisor would have, before it was killed."""
    here.run.mkdir(parents=True)
    entry = {"pid": process.pid, "born": born or processes.born(process.pid)}
    here.state_file.write_text(json.dumps({"services": [entry], "mail": None}))


def test_an_orphan_of_this_fleet_is_ended(here: Environment) -> None:
    with sleeper() as orphan:
        remember(here, orphan)
        fleet.end_orphans(here)
        assert orphan.wait(5) == -signal.SIGTERM
    assert not here.state_file.exists()


def test_a_foreign_process_that_got_an_orphans_pid_is_left_alone(here: Environment) -> None:
    with sleeper() as process:
        remember(here, process, born=processes.born(process.pid) - 0.01)
        fleet.end_orphans(here)
        assert process.poll() is None
    assert not here.state_file.exists()


def test_a_foreign_process_that_got_the_brokers_or_epmds_pid_is_left_alone(here: Environment) -> None:
    node = here.broker()
    assert node
    node.folder.mkdir(parents=True)
    with sleeper("epmd -port 4369", HOME="/another/node") as process:
        for name in ("node", "epmd"):
            (node.folder / f"{name}.pid").write_text(str(process.pid))
        fleet.end_orphans(here)
        assert process.poll() is None


def test_files_that_are_damaged_keep_nobody_from_stopping_what_runs(
    here: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = here.node("")
    node.folder.mkdir(parents=True)
    here.run.mkdir(parents=True)
    (here.data / "secrets.json").write_text("{")
    here.state_file.write_text("{")
    with sleeper(node._name) as orphan:
        (node.folder / "node.pid").write_text(str(orphan.pid))
        up.down()
        assert orphan.wait(5) == -signal.SIGTERM
    assert not here.state_file.exists()


def test_a_second_fleet_finds_the_first(here: Environment) -> None:
    assert fleet.running(here) == 0
    held = fleet.hold_lock(here)
    assert held
    with held:
        assert fleet.running(here) == os.getpid()
        assert fleet.hold_lock(here) is None
    assert fleet.running(here) == 0


def test_a_pid_that_a_dead_fleet_left_fools_nobody(here: Environment) -> None:
    here.run.mkdir(parents=True)
    (here.run / "lock").write_text(str(os.getpid()))
    assert fleet.running(here) == 0


def test_looking_whether_a_fleet_runs_never_keeps_one_from_starting(here: Environment) -> None:
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            fleet.running(here)

    lookers = [threading.Thread(target=look) for _ in range(3)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(200):
            held = fleet.hold_lock(here)
            assert held
            assert fleet.running(here) == os.getpid()
            held.close()
    finally:
        done.set()
        for looker in lookers:
            looker.join()
