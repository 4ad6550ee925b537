"""Services as real processes, as many of each as are wanted, that are started, told to end and started again."""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aio_pika
import httpx

from deploy.local.ports import HOST
from tests import forking
from tests.forking import ROOT
from tests.migrated import migrate
from tests.running import LADDER, SECRET, Broker, until


class Process:
    """One process of a service, on a port of its own."""

    def __init__(self, service: str, environment: dict[str, str], log: Path) -> None:
        port = lasting_port()
        self.service, self.url = service, f"http://{HOST}:{port}"
        self._log = log
        self.environment = {**os.environ, **environment, f"{service.upper()}_PORT": str(port)}
        self._child: subprocess.Popen[bytes] | forking.Forked | None = None
        self.root = ROOT
        """The folder of the code that it is started from: this checkout's, or an earlier revision's."""

    @property
    def pid(self) -> int:
        assert self._child, "it was not started"
        return self._child.pid

    def start(self) -> None:
        """Start it; `ready` waits for it."""
        env = self.environment
        with self._log.open("ab") as log:
            if self.root == ROOT:
                self._child = forking.start("shared.service", self.service, env=env, stdout=log, stderr=log)
            else:  # an older release, in which each service has its own module to start
                self._child = subprocess.Popen(
                    [sys.executable, "-m", f"services.{self.service}.app"],
                    cwd=self.root, env=env, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip

    async def ready(self) -> None:
        await until(self.is_ready, f"{self.service} to be ready: {self._log}", 60)

    async def is_ready(self) -> bool:
        assert self._child
        assert self._child.poll() is None, f"{self.service} has ended: {self._log.read_text()[-2000:]}"
        async with httpx.AsyncClient(trust_env=False) as http:
            try:
                return (await http.get(f"{self.url}/readyz", timeout=5)).status_code == 200
            except httpx.HTTPError:
                return False

    async def stop(self) -> None:
        """Tell it to end, and wait until it has, in order."""
        assert self._child
        self._child.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(self._child.wait, 30) == -signal.SIGTERM, "uvicorn's way to end in order"

    async def restart(self) -> None:
        await self.stop()
        self.start()
        await self.ready()

    def kill(self) -> None:
        """Whatever is left of it."""
        if self._child and self._child.poll() is None:
            self._child.send_signal(signal.SIGCONT)
            self._child.kill()
            self._child.wait()

    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""


def lasting_port() -> int:
    """A free port below those that the system gives away: it still is when its process is started again."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            if port not in _GIVEN:
                _GIVEN.add(port)
                return port


_GIVEN: set[int] = set()


class Processes:
    """Processes of services that share a broker; those of one service share its database."""

    def __init__(self, amqp_url: str, folder: Path) -> None:
        self._amqp_url, self._folder, self._all = amqp_url, folder, list[Process]()

    async def add(self, service: str, database_url: str, number: int = 1, **more: Any) -> list[Process]:
        """So many more processes of a service on a migrated database, all of them ready."""
        await asyncio.to_thread(migrate, service, database_url)
        own = {"AMQP_URL": self._amqp_url, "DATABASE_URL": database_url, **{k.upper(): str(v) for k, v in more.items()}}
        environment = {f"{service.upper()}_{name}": value for name, value in own.items()}
        environment |= {
            "MALOTE_JWT_SECRET": SECRET,
            "MALOTE_LOG_FORMAT": "json",
            "MALOTE_RETRY_LADDER": ",".join(LADDER),
        }
        before = len(self._all)
        logs = (self._folder / f"{service}-{n}.log" for n in range(before, before + number))
        added = [Process(service, environment, log) for log in logs]
        self._all += added
        for process in added:
            process.start()
        await asyncio.gather(*(process.ready() for process in added))
        return added

    def log(self) -> str:
        """What all of them said."""
        return "\n".join(process.log() for process in self._all)

    def end(self) -> None:
        for process in self._all:
            process.kill()


@contextlib.asynccontextmanager
async def processes(amqp_url: str, folder: Path) -> AsyncIterator[Processes]:
    """None yet; whatever was started is killed at the end."""
    started = Processes(amqp_url, folder)
    try:
        yield started
    finally:
        started.end()


class Ear:
    """Counts what is published, by message id: who says something twice is heard twice."""

    def __init__(self) -> None:
        self.heard: Counter[str] = Counter()
        self.keys: Counter[str] = Counter()

    async def take(self, message: aio_pika.abc.AbstractIncomingMessage) -> None:
        self.heard[message.message_id or ""] += 1
        self.keys[message.routing_key or ""] += 1

    @property
    def twice(self) -> dict[str, int]:
        """What was heard more than once, and how often."""
        return {id_: times for id_, times in self.heard.items() if times > 1}

    async def hears(self, number: int, key: str, seconds: float = 60.0) -> None:
        async def look() -> bool:
            return self.keys[key] >= number

        await until(look, f"{number} of {key} (heard: {dict(self.keys)})", seconds)


async def listen(broker: Broker, *exchanges: str) -> Ear:
    """Hear all that is published to these exchanges from now on."""
    ear = Ear()
    queue = await broker.channel.declare_queue(exclusive=True, auto_delete=True)
    for exchange in exchanges:
        await queue.bind(exchange, "#")
    await queue.consume(ear.take, no_ack=True)
    return ear
