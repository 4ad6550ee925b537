"""What the benchmarks share: servers, processes, and how a figure looks."""

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from deploy.local.ports import free_port
from deploy.local.postgres import PostgresCluster
from deploy.local.rabbitmq import ADMINISTRATOR, RabbitNode

SECRET = "a secret for benchmarks, long enough to sign"


@dataclass(frozen=True)
class Figure:
    """A measured value beside a rival's from the same run; `ratio` is value / rival_value."""

    name: str
    value: float
    unit: str
    rival: str | None = None
    rival_value: float | None = None
    ratio: float | None = None
    target: str | None = None


def beside(name: str, value: float, unit: str, rival: str, rival_value: float, target: str | None = None) -> Figure:
    """A figure and its ratio to a rival's."""
    return Figure(name, round(value, 2), unit, rival, round(rival_value, 2), round(value / rival_value, 2), target)


@dataclass
class Machines:
    """The servers of a run."""

    folder: Path
    rabbit: RabbitNode
    postgres: PostgresCluster

    def database(self, kind: str) -> str:
        """A new database: `postgresql` or `sqlite`."""
        name = f"b{secrets.token_hex(4)}"
        return self.postgres.create_database(name) if kind == "postgresql" else f"sqlite:///{self.folder / name}.db"

    def new_vhost(self) -> str:
        """A new vhost, as the administrator's address."""
        name = f"b{secrets.token_hex(4)}"
        with httpx.Client(base_url=self.rabbit.management_url) as api:
            api.put(f"/api/vhosts/{name}").raise_for_status()
            everything = {"configure": ".*", "write": ".*", "read": ".*"}
            api.put(f"/api/permissions/{name}/{ADMINISTRATOR}", json=everything).raise_for_status()
        return self.rabbit.url_for(ADMINISTRATOR, self.rabbit.password, name)


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[Machines]:
    """A broker and a database server of their own."""
    rabbit = RabbitNode(folder / "rabbitmq", *(free_port() for _ in range(4)), secrets.token_hex(8))
    postgres = PostgresCluster(folder / "postgres", free_port())
    try:
        rabbit.start()
        postgres.start()
        yield Machines(folder, rabbit, postgres)
    finally:
        rabbit.kill()
        postgres.remove()


@contextlib.contextmanager
def process(log: Path, module: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A Python module running beside us, ended with the block."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", module], env={**os.environ, **environment}, stdout=output, stderr=output
        )
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


async def wait_for(look: Callable[[], Awaitable[bool]], what: str, seconds: float = 300.0) -> float:
    """Look every 20 ms until it is true; return the time of that. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not await look():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        await asyncio.sleep(0.02)
    return time.monotonic()
