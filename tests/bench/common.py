"""What the benchmarks share: servers, processes, and how a figure looks."""

import asyncio
import contextlib
import operator
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from deploy.local.ports import free_port
from deploy.local.rabbitmq import ADMINISTRATOR, RabbitNode
from tests.postgres import PostgresCluster

SECRET = "a secret for benchmarks, long enough to sign"
_TARGET = re.compile(r"(>=|<=) ([\d.]+)( x)?")
_MEETS = {">=": operator.ge, "<=": operator.le}
_began = time.monotonic()


@dataclass(frozen=True)
class Figure:
    """A measured value beside a rival's from the same run; `ratio` is value / rival_value.

    A target such as `>= 3 x, >= 300` is about the ratio (`x`) and about the value.
    """

    name: str
    value: float
    unit: str
    rival: str | None = None
    rival_value: float | None = None
    ratio: float | None = None
    target: str | None = None

    @property
    def reached(self) -> bool | None:
        """Whether all of the target is reached; None without one."""
        if self.target is None:
            return None
        parts = [_TARGET.fullmatch(part) for part in self.target.split(", ")]
        assert all(parts), f"not a target: {self.target!r}"
        held = [(self.ratio if part[3] else self.value, part) for part in parts if part]
        return all(value is not None and _MEETS[part[1]](value, float(part[2])) for value, part in held)


def alone(name: str, value: float, unit: str, target: str | None = None) -> Figure:
    """A figure without a rival."""
    return Figure(name, round(value, 2), unit, target=target)


def beside(name: str, value: float, unit: str, rival: str, rival_value: float, target: str | None = None) -> Figure:
    """A figure and its ratio to a rival's."""
    return Figure(name, round(value, 2), unit, rival, round(rival_value, 2), round(value / rival_value, 3), target)


def say(what: str) -> None:
    """Progress, on stderr."""
    print(f"{time.monotonic() - _began:6.0f} s  {what}", file=sys.stderr, flush=True)


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

    @contextlib.contextmanager
    def vhost(self) -> Iterator[str]:
        """A vhost for the time of the block, as the administrator's address: what is over leaves nothing behind."""
        name = f"b{secrets.token_hex(4)}"
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        with httpx.Client(base_url=self.rabbit.management_url, trust_env=False, timeout=60) as api:
            api.put(f"/api/vhosts/{name}").raise_for_status()
            api.put(f"/api/permissions/{name}/{ADMINISTRATOR}", json=everything).raise_for_status()
            try:
                yield self.rabbit.url_for(ADMINISTRATOR, self.rabbit.password, name)
            finally:
                api.delete(f"/api/vhosts/{name}").raise_for_status()

    def processes(self) -> dict[str, psutil.Process]:
        """The servers themselves."""
        return {"RabbitMQ": psutil.Process(self.rabbit.pid), "PostgreSQL": psutil.Process(self.postgres.pid)}


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
def process(log: Path, module: str, environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python module running beside us, ended with the block."""
    command = [sys.executable, "-m", module, *arguments]
    with log.open("ab") as output:
        child = subprocess.Popen(command, env={**os.environ, **environment}, stdout=output, stderr=output)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def family(process: psutil.Process) -> list[psutil.Process]:
    """A process and all that it has started."""
    return [process, *process.children(recursive=True)]


def cpu_seconds(process: psutil.Process) -> float:
    """What a process and its children have used, also those that have ended."""
    return sum(sum(member.cpu_times()[:4]) for member in family(process))


async def wait_for(
    look: Callable[[], Awaitable[bool]], what: str, seconds: float = 3600.0, slow_seconds: float = 60.0
) -> float:
    """Look every 20 ms until it is true; return the time of that. Says every `slow_seconds` what is waited for. Raises
    TimeoutError after `seconds`."""
    began = time.monotonic()
    told = began
    while not await look():
        now = time.monotonic()
        if now > began + seconds:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        if now > told + slow_seconds:
            told = now
            say(f"slow: waiting for {what} since {now - began:.0f} s")
        await asyncio.sleep(0.02)
    return time.monotonic()
