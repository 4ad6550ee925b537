"""The fleet as a newcomer starts it: `make up DETACH=1`, on ports and in a folder of its own."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from deploy.local import install
from deploy.local.ports import free_port
from tests import forking

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
PORTS = [
    "GATEWAY_PORT", "ORDERS_PORT", "STOCK_PORT", "EMAIL_PORT", "REPORTS_PORT", "DEADLETTERS_PORT",
    "MALOTE_AMQP_PORT", "MALOTE_MANAGEMENT_PORT", "MALOTE_METRICS_PORT", "MALOTE_DIST_PORT", "MALOTE_SMTP_PORT",
]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One fleet for all tests that use it, whatever runs beside them."""
    for item in items:
        if "fleet" in getattr(item, "fixturenames", ()) and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("fleet"))


@dataclass(frozen=True)
class Fleet:
    """A running fleet: what its commands need in their environment, and what `malote status --json` said."""

    environment: dict[str, str]
    status: dict[str, Any]

    def run(self, *command: str, expect: int = 0) -> str:
        """Run a command in the checkout, as a user would; return what it printed."""
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=180)
        assert done.returncode == expect, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def malote(self, *arguments: str, expect: int = 0) -> str:
        """Run the command line; return what it printed."""
        done = self.command(*arguments)
        assert done.returncode == expect, f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def command(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run the command line, however it ends, in a process that has its imports behind it."""
        return forking.run("deploy.cli.app:main", *arguments, env=self.environment | environment, timeout=180)


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Up for all tests of this folder, down after them."""
    if shutil.which("curl") is None:  # the README's line uses it; the product does not
        install.package("curl")
    folder = tmp_path_factory.mktemp("fleet")
    own = own_ports()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALOTE_")}
    environment = {**inherited, **own, "MALOTE_DATA": str(folder), "COLUMNS": "100"}
    try:
        started = subprocess.run(
            ["make", "up", "DETACH=1"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
        )
        assert started.returncode == 0, started.stdout + started.stderr + _logs(folder)
        status = subprocess.run(
            [".venv/bin/malote", "status", "--json"], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        yield Fleet(environment, json.loads(status.stdout))
    finally:
        subprocess.run(["make", "down"], cwd=ROOT, env=environment, capture_output=True, timeout=120)
        shutil.rmtree(folder, ignore_errors=True)


def until(look: Callable[[], T | None], what: str, seconds: float = 60) -> T:
    """Wait until `look` returns something true, and return it."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}; last seen: {found!r}"
        time.sleep(0.05)
    return found


def own_ports() -> dict[str, str]:
    """A free port for each variable, no two alike: the system may give one twice if it is asked one by one."""
    found: set[int] = set()
    while len(found) < len(PORTS):
        found.add(free_port())
    return dict(zip(PORTS, map(str, found), strict=True))


def _logs(folder: Path) -> str:
    return "".join(f"\n--- {path.name}\n{path.read_text()[-2000:]}" for path in sorted(folder.glob("logs/*.log")))
