"""One process of the fleet: starting, restarting, readiness, stopping."""

import asyncio
import contextlib
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from deploy.local import processes, replicas
from deploy.local.children import Child, Children
from deploy.local.fleet import GRACE
from deploy.local.ports import HOST

_READY_TIMEOUT = 90.0
_FIRST_WAIT, _LONGEST_WAIT, _HEALTHY = 0.5, 30.0, 60.0
_EX_CONFIG = 78  # a service refuses its settings: a restart would not help
_LATELY = 600.0
_TAIL_BYTES = 4_000


class Failed(Exception):
    """The fleet can't be started; the text says why, with the log's last lines."""


class Program:
    """A process that is started again whenever it ends, and its log."""

    def __init__(
        self, name: str, module: str, port: int, environment: dict[str, str], logs: Path, children: Children
    ) -> None:
        self.name = name
        self._module = module
        self._children = children
        self.port = port
        self.log = logs / f"{name}.log"
        self.restarts = 0
        self._ended: deque[float] = deque(maxlen=10)
        self.since = datetime.now(UTC)
        self.status: int | None = None
        self.environment = environment
        self._said_before = 0
        self._process: Child | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def service(self) -> str:
        """The service of the process: `stock` for `stock-1`."""
        return replicas.split(self.name)[0]

    @property
    def pid(self) -> int:
        """The process id; 0 if the process does not run."""
        return self._process.pid if self._process and self._process.returncode is None else 0

    async def start(self, say: Callable[[str], None], changed: Callable[[], None], hurry: asyncio.Event) -> None:
        """Start the process, and restart it whenever it ends: after 0.5 s, doubled to 30 s; after a minute of life, 0.5
        s again.

        `say` gets a line about each end; `changed` is called when the pid changes; `hurry` ends a wait.
        """
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep(say, changed, hurry))

    async def _keep(self, say: Callable[[str], None], changed: Callable[[], None], hurry: asyncio.Event) -> None:
        pause = _FIRST_WAIT
        while True:
            started = time.monotonic()
            status = await self._wait()
            lived = time.monotonic() - started
            pause = _FIRST_WAIT if lived > _HEALTHY else pause
            changed()
            say(f"{self.name} ended ({_why(status)}) after {lived:.1f} s; it starts again in {pause} s; see {self.log}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(hurry.wait(), pause)
            pause = min(pause * 2, _LONGEST_WAIT)
            self.restarts += 1
            await self._spawn()
            changed()

    async def _spawn(self) -> None:
        """Start the process in a group of its own, so that Ctrl-C on the terminal reaches only the supervisor."""
        with self.log.open("ab") as log:
            self._said_before = log.tell()
            self._process = await self._children.start(self._module, self.environment, log, self.name)
        processes.put_behind(self._process.pid, self.service)
        self.since = datetime.now(UTC)

    async def _wait(self) -> int:
        assert self._process
        self.status = await self._process.wait()
        self._ended.append(time.monotonic())
        return self.status

    async def abandon(self) -> None:
        """Do not restart the process after its end."""
        if self._keeper:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    async def stop(self) -> None:
        """End the process by SIGTERM, after GRACE seconds by SIGKILL. It is restarted unless it was abandoned."""
        if not self.pid or not self._process:
            return
        processes.signal_group(self.pid, signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), GRACE)
        except TimeoutError:
            processes.signal_group(self._process.pid, signal.SIGKILL)
            await self._process.wait()

    def entry(self) -> dict[str, Any]:
        """The entry of the process in the state file."""
        lately = sum(ended > time.monotonic() - _LATELY for ended in self._ended)
        entry = {"name": self.name, "pid": self.pid, "port": self.port, "restarts": self.restarts}
        entry |= {"restarts_lately": lately}
        return entry | {"since": self.since.isoformat(timespec="seconds"), "born": processes.born(self.pid)}

    def tail(self) -> str:
        """The last lines of its log since it was started."""
        with self.log.open("rb") as log:
            log.seek(max(0, self._said_before - _TAIL_BYTES))  # also its lines before the last restart
            return "\n".join(log.read().decode(errors="replace").splitlines()[-20:])

    async def is_ready(self, http: httpx.AsyncClient) -> bool:
        """Whether the process answers that it is ready."""
        try:
            return (await http.get(f"http://{HOST}:{self.port}/readyz")).status_code == 200
        except httpx.HTTPError:
            return False


async def all_ready(programs: Sequence[Program]) -> None:
    """Wait until all are ready. Raises Failed for the first that refuses its settings, keeps crashing, or is late."""
    waiting = list(programs)
    before = {program: program.restarts for program in waiting}
    deadline = time.monotonic() + _READY_TIMEOUT
    async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
        while waiting := [program for program in waiting if not await program.is_ready(http)]:
            hopeless = [one for one in waiting if one.status == _EX_CONFIG or one.restarts - before[one] >= 3]
            if hopeless or time.monotonic() > deadline:
                bad = (hopeless or waiting)[0]
                raise Failed(f"{bad.name} does not become ready; the end of {bad.log}:\n{bad.tail()}")
            await asyncio.sleep(0.1)


def _why(status: int) -> str:
    return f"status {status}" if status >= 0 else signal.Signals(-status).name
