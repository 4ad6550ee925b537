"""The process that holds the fleet together: starts all in order, restarts what crashes, ends all in order."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from aio_pika.exceptions import AMQPError

from deploy.local import install, processes
from deploy.local.catalogue import seed
from deploy.local.environment import ROOT, Environment, Misconfigured
from deploy.local.files import write_private
from deploy.local.fleet import GRACE, end_orphans, hold_lock
from deploy.local.rabbitmq import RabbitNode
from shared.http import tokens
from shared.messaging import topology
from shared.messaging.causes import cause_of
from shared.messaging.old_queues import Left, TooLarge
from shared.persistence import database

_READY_TIMEOUT = 90.0
_FIRST_WAIT, _LONGEST_WAIT, _HEALTHY = 0.5, 30.0, 60.0
_EX_CONFIG = 78  # a service refuses its settings: trying again is of no use
_MAIL = "mail"
_WATCH = "watch"
_HELPERS = (_MAIL, _WATCH)
"""What runs beside the services and answers no HTTP."""
_LATELY = 600.0
_TAIL_BYTES = 4_000

Say = Callable[[str], None]


class Failed(Exception):
    """The fleet can't be started; the text says why, with the log's last lines."""


class Child:
    """One process of the fleet and its log."""

    def __init__(self, name: str, module: str, port: int, environment: dict[str, str], logs: Path) -> None:
        self.name = name
        self.module = module
        self.port = port
        self.log = logs / f"{name}.log"
        self.restarts = 0
        self._ended: deque[float] = deque(maxlen=10)
        self.since = datetime.now(UTC)
        self.status: int | None = None
        self.environment = environment
        self._said_before = 0
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """0 when it does not run."""
        return self._process.pid if self._process and self._process.returncode is None else 0

    async def start(self) -> None:
        """Start it in a group of its own: Ctrl-C on the terminal is for the supervisor alone."""
        with self.log.open("ab") as log:
            self._said_before = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                *self.module.split(),
                cwd=ROOT,
                env=self.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        processes.put_behind(self._process.pid, self.name)
        self.since = datetime.now(UTC)

    async def wait(self) -> int:
        """Its exit status."""
        assert self._process
        self.status = await self._process.wait()
        self._ended.append(time.monotonic())
        return self.status

    async def stop(self) -> None:
        """SIGTERM, after GRACE seconds SIGKILL."""
        if not self.pid or not self._process:
            return
        processes.signal_group(self.pid, signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), GRACE)
        except TimeoutError:
            processes.signal_group(self._process.pid, signal.SIGKILL)
            await self._process.wait()

    def entry(self) -> dict[str, Any]:
        """What the state file says about it."""
        lately = sum(ended > time.monotonic() - _LATELY for ended in self._ended)
        entry = {"name": self.name, "pid": self.pid, "port": self.port, "restarts": self.restarts}
        entry |= {"restarts_lately": lately}
        return entry | {"since": self.since.isoformat(timespec="seconds"), "module": self.module}

    def tail(self) -> str:
        """The last lines of what it said since it was started."""
        with self.log.open("rb") as log:
            log.seek(max(0, self._said_before - _TAIL_BYTES))  # what it said before it was started again, too
            return "\n".join(log.read().decode(errors="replace").splitlines()[-20:])


class Supervisor:
    """`say` gets a line about each step and each crash; `on_ready` is called once all is ready."""

    def __init__(self, here: Environment, say: Say, on_ready: Callable[[], None]) -> None:
        self._here = here
        self._say = say
        self._on_ready = on_ready
        self._broker: RabbitNode | None = here.broker()
        self._broker_restarts = 0
        self._children: dict[str, Child] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._phase = "starting"
        self._stop = asyncio.Event()
        self._look = asyncio.Event()

    async def run(self) -> None:
        """Hold the fleet until SIGTERM, SIGINT or SIGHUP. SIGUSR1: look for what is missing. Raises Failed."""
        loop = asyncio.get_running_loop()
        for what in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(what, self._stop.set)
        loop.add_signal_handler(signal.SIGUSR1, self._look.set)
        try:
            end_orphans(self._here)
            if taken := self._here.taken_ports():
                raise Failed("\n".join(taken))
            await self._or_stop(self._bring_up())
            if not self._stop.is_set():
                self._on_ready()
            while not self._stop.is_set():
                await self._or_stop(self._look.wait())
                if self._look.is_set():
                    self._look.clear()
                    await self._look_again()
        finally:
            await self._tear_down()

    async def _look_again(self) -> None:
        """What runs goes on, even if something new or hung does not become ready."""
        try:
            await self._or_stop(self._bring_up())
        except Failed as error:
            self._say(f"not everything is up: {error}")
            self._enter("incomplete")

    async def _or_stop(self, work: Any) -> None:
        """Do the work, but not once we are told to stop."""
        task, stop = asyncio.ensure_future(work), asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not task.done():
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _bring_up(self) -> None:
        """What is not there yet. Topology comes before the services: no event may find its queue missing."""
        here = self._here
        here.make_folders()
        self._enter("starting")
        new = [service for service in here.services if service not in self._children]
        earlier = [child for name, child in self._children.items() if name not in _HELPERS] if new else []
        if "reports" in new and not await asyncio.to_thread(install.pango):
            self._say("Pango is missing, so there are no reports as pdf; `malote doctor` says what to install")
        if earlier:
            await self._take_in(new, earlier)
        else:
            await self._migrate(new)
            await self._start_mail()
            await self._start_broker()
            async with self._step("applying the topology", "topology applied"):
                await self._apply_topology()
        async with self._step("starting the services", "services ready"):
            for service in new:
                module = f"shared.service {service}"
                await self._start_child(service, module, here.port_of(service), here.environment_of(service))
            await self._all_ready()
        await self._seed()
        await self._start_watch()
        self._enter("ready")

    async def _take_in(self, new: list[str], earlier: list[Child]) -> None:
        """Make room for new services: what runs, and this process, have the contracts that they started with. So other
        processes prepare database and broker, and the services that run are started again, one after the other."""
        for arguments in (*(("migrate", service) for service in new), ("topology", "apply")):
            command = f"malote {' '.join(arguments)}"
            async with self._step(command, f"{command} done"):
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "deploy.cli.app", *arguments,
                    cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                )  # fmt: skip
                said, _ = await process.communicate()
                if process.returncode:
                    raise Failed(f"{command}: {said.decode(errors='replace').strip()}")
        for child in earlier:
            async with self._step(f"starting {child.name} again", f"{child.name} ready"):
                child.environment = self._here.environment_of(child.name)
                await child.stop()  # its keeper starts it again
                await self._all_ready(child)
        if watch := self._children.get(_WATCH):
            await watch.stop()

    async def _start_broker(self) -> None:
        if self._broker and not self._broker.pid:
            async with self._step("starting the broker", "broker ready"):
                await asyncio.to_thread(self._broker.start)
            self._keepers.append(asyncio.create_task(self._keep_broker(self._broker)))

    async def _apply_topology(self) -> None:
        here = self._here
        try:
            await topology.apply(here.amqp_url, here.management_url, here.passwords, here.retry_ladder, here.tls_of())
        except (OSError, ValueError, AMQPError, httpx.HTTPError) as error:
            where = "our broker" if self._broker else "the broker of AMQP_URL (its management: AMQP_MANAGEMENT_URL)"
            raise Failed(f"{where} refused the topology: {_without_login(error)}") from error
        except TooLarge as error:  # all is there; what stays in old queues hinders nobody
            self._say(str(error))
        except Left as error:
            raise Failed(str(error)) from error

    async def _migrate(self, services: list[str]) -> None:
        """One after the other: Alembic keeps its context in a global."""
        if not services:
            return
        names = ", ".join(services)
        async with self._step(f"migrating databases: {names}", "databases migrated"):
            for service in services:
                url, tls = self._here.database_url_of(service), self._here.tls_of(service)
                try:
                    await asyncio.to_thread(database.migrate, service, url, tls)
                except Exception as error:  # a wrong URL, no such server, a wrong password, a migration that fails
                    raise Failed(f"{service.upper()}_DATABASE_URL: {_without_login(error)}") from error

    async def _start_mail(self) -> None:
        if _MAIL not in self._children:
            environment = {**os.environ, "MALOTE_DATA": str(self._here.data)}
            await self._start_child(_MAIL, "deploy.local.mailsink", self._here.smtp_port, environment)

    async def _start_watch(self) -> None:
        """What is wrong is told to the operators by mail, as the email service is set to."""
        if _WATCH not in self._children and "email" in self._children:
            await self._start_child(_WATCH, "deploy.local.watch", 0, self._here.environment_of("email"))

    async def _start_child(self, name: str, module: str, port: int, environment: dict[str, str]) -> None:
        child = Child(name, module, port, environment, self._here.logs)
        self._children[name] = child
        await child.start()
        self._keepers.append(asyncio.create_task(self._keep(child)))
        self._enter(self._phase)

    async def _keep(self, child: Child) -> None:
        """Start it again whenever it ends, after 0.5 s, doubled to 30 s; a minute of life forgives."""
        pause = _FIRST_WAIT
        while True:
            started = time.monotonic()
            status = await child.wait()
            lived = time.monotonic() - started
            pause = _FIRST_WAIT if lived > _HEALTHY else pause
            self._enter(self._phase)
            what = f"{child.name} ended ({_why(status)}) after {lived:.1f} s"
            self._say(f"{what}; it starts again in {pause} s; see {child.log}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), pause)
            pause = min(pause * 2, _LONGEST_WAIT)
            child.restarts += 1
            await child.start()
            self._enter(self._phase)

    async def _keep_broker(self, node: RabbitNode) -> None:
        while True:
            await asyncio.to_thread(node.wait)
            self._broker_restarts += 1
            self._say("the broker ended; it starts again")
            try:
                await asyncio.to_thread(node.start)
                self._enter(self._phase)  # its pid is another one now
                self._say("the broker is back")
            except RuntimeError as error:
                self._say(str(error))
                await asyncio.sleep(_LONGEST_WAIT)

    async def _all_ready(self, *some: Child) -> None:
        """Wait for some, or all. Raises Failed for the first that refuses its settings, crashes again and again, or is
        late."""
        waiting = list(some) or [child for child in self._children.values() if child.name not in _HELPERS]
        before = {child: child.restarts for child in waiting}
        deadline = time.monotonic() + _READY_TIMEOUT
        async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
            while waiting := [child for child in waiting if not await _is_ready(http, child)]:
                hopeless = [
                    child for child in waiting if child.status == _EX_CONFIG or child.restarts - before[child] >= 3
                ]
                if hopeless or time.monotonic() > deadline:
                    bad = (hopeless or waiting)[0]
                    raise Failed(f"{bad.name} does not become ready; the end of {bad.log}:\n{bad.tail()}")
                await asyncio.sleep(0.1)

    async def _seed(self) -> None:
        """Only where there is a shop to fill: the kernel can be tried with any set of services."""
        if not {"gateway", "orders", "stock"} <= set(self._children):
            return
        here = self._here
        token = tokens.issue_token(here.jwt_secret, subject="seed", role="operator", ttl=600)
        if count := await seed(here.url_of("gateway"), here.url_of("orders"), token):
            self._say(f"catalogue filled with {count} products")

    async def _tear_down(self) -> None:
        """Services first, so that they can still publish and acknowledge; then the mail server; then the broker."""
        self._enter("stopping")
        if self._stop.is_set():
            self._say("stopping")
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        if _WATCH in self._children:  # first: what stops now is no news
            await self._children[_WATCH].stop()
        services = [child for child in self._children.values() if child.name not in _HELPERS]
        await asyncio.gather(*(child.stop() for child in services))
        if _MAIL in self._children:
            await self._children[_MAIL].stop()
        if self._broker:
            await asyncio.to_thread(self._broker.stop)
        self._here.state_file.unlink(missing_ok=True)

    def _enter(self, phase: str) -> None:
        """Write down what runs, for `up`, `status` and whoever has to clean up after us."""
        self._phase = phase
        here = self._here
        state = {
            "supervisor": os.getpid(),
            "phase": phase,
            "gateway_url": here.url_of("gateway") if "gateway" in here.services else None,
            "shop_amqp_url": here.amqp_url_of("shop"),
            "mailbox": str(here.mailbox),
            "broker": self._broker.pid if self._broker else None,
            "broker_restarts": self._broker_restarts,
            "services": [child.entry() for child in self._children.values() if child.name not in _HELPERS],
        }
        state |= {name: self._children[name].entry() if name in self._children else None for name in _HELPERS}
        try:
            write_private(here.state_file, json.dumps(state, indent=1))
        except OSError as error:  # a full disk must not keep us from starting again what ends
            self._say(f"cannot write {here.state_file}: {error.strerror}")

    @contextlib.asynccontextmanager
    async def _step(self, begun: str, done: str) -> AsyncIterator[None]:
        """What is being done is said before, as it may take long or fail, and how long it took after."""
        self._say(begun)
        started = time.monotonic()
        yield
        self._say(f"{done} ({time.monotonic() - started:.1f} s)")


async def _is_ready(http: httpx.AsyncClient, child: Child) -> bool:
    try:
        return (await http.get(f"http://127.0.0.1:{child.port}/readyz")).status_code == 200
    except httpx.HTTPError:
        return False


def _without_login(error: Exception) -> str:
    """httpx puts the whole URL in its messages, with the administrator's password."""
    return re.sub(r"//[^/@\s]*@", "//", f"{type(error).__name__}: {error}".splitlines()[0])


def _why(status: int) -> str:
    return f"status {status}" if status >= 0 else signal.Signals(-status).name


def supervise(here: Environment, terminal: bool, on_ready: Callable[[], None] = lambda: None) -> int:
    """Hold the fleet until told to stop; the exit status. Says its lines in supervisor.log, too."""
    here.make_folders()
    lock = hold_lock(here)
    if lock is None:
        print("another `malote up` is at it already", file=sys.stderr)
        return 1
    with lock, (here.logs / "supervisor.log").open("a") as log:

        def say(line: str) -> None:
            with contextlib.suppress(OSError):  # a full disk
                print(f"{datetime.now(UTC).isoformat(timespec='seconds')} {line}", file=log, flush=True)
            if terminal:
                print(line, flush=True)

        try:
            asyncio.run(Supervisor(here, say, on_ready).run())
        except Exception as error:  # whatever it is, the terminal and the log have to say it
            say(f"failed: {error if isinstance(error, Failed | Misconfigured) else cause_of(error)}")
            return 1
        finally:
            end_orphans(here)  # told to stop while the broker was starting, we may have missed it
        say("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(supervise(Environment(), terminal=False))
