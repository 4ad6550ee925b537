"""The process that holds the fleet together: starts all in order, restarts what crashes, ends all in order."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

from deploy.local import children, install, replicas
from deploy.local.children import Children
from deploy.local.environment import Environment, Misconfigured
from deploy.local.files import write_private
from deploy.local.fleet import end_orphans, hold_lock
from deploy.local.ports import free_port
from deploy.local.program import Failed, Program, all_ready
from deploy.local.rabbitmq import RabbitNode
from shared.messaging.causes import cause_of

_BROKER_WAIT = 30.0
_MAIL = "mail"
_WATCH = "watch"
_HELPERS = (_MAIL, _WATCH)
"""What runs beside the services and answers no HTTP."""

Say = Callable[[str], None]


class Supervisor:
    """`say` gets a line about each step and each crash; `on_ready` is called once all is ready; `broker` was launched,
    if it is ours."""

    def __init__(
        self,
        here: Environment,
        say: Say,
        on_ready: Callable[[], None],
        children: Children,
        broker: RabbitNode | None = None,
    ) -> None:
        self._here = here
        self._children = children
        self._own = {**os.environ, "MALOTE_DATA": str(here.data)}
        self._say = say
        self._on_ready = on_ready
        self._broker = broker
        self._broker_restarts = 0
        self._broker_keeper: asyncio.Task[None] | None = None
        self._programs: dict[str, Program] = {}
        self._counts: replicas.Counts = {}
        self._phase = "starting"
        self._stop = asyncio.Event()
        self._look = asyncio.Event()

    async def run(self) -> None:
        """Hold the fleet until SIGTERM, SIGINT or SIGHUP. SIGUSR1: look for what is missing, or too much. Raises
        Failed."""
        loop = asyncio.get_running_loop()
        for what in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(what, self._stop.set)
        loop.add_signal_handler(signal.SIGUSR1, self._look.set)
        try:
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
        except (Failed, Misconfigured) as error:
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
        self._counts = replicas.wanted(here)
        self._enter("starting")
        earlier = self._services()
        new = [service for service in here.services if service not in self._programs]
        if "reports" in new and not await asyncio.to_thread(install.pango):
            self._say("Pango is missing, so there are no reports as pdf; `malote doctor` says what to install")
        await self._drain()
        await self._prepare(new)
        if new:
            await self._start_again(earlier)
        async with self._step("starting the services", "services ready"):
            for name in replicas.names(here.services, self._counts):
                if name not in self._programs:
                    service, number = replicas.split(name)
                    port = self._another_port() if number else here.port_of(service)
                    await self._start(name, f"shared.service {service}", port, self._environment_of(service, port))
            await all_ready(self._services())
        if {"gateway", "orders", "stock"} <= set(self._programs):
            await self._do("catalogue")
        if _WATCH not in self._programs and "email" in self._programs:
            # What is wrong is told to the operators by mail, as the email service is set to.
            await self._start(_WATCH, "deploy.local.watch", 0, here.environment_of("email"))
        self._enter("ready")

    async def _prepare(self, new: list[str]) -> None:
        """Databases of new services, the mail server, the broker and its topology."""
        if new:
            async with self._step(f"migrating databases: {', '.join(new)}", "databases migrated"):
                await self._do("migrate", *new)
        if _MAIL not in self._programs:
            await self._start(_MAIL, "deploy.local.mailsink", self._here.smtp_port, self._own)
        if self._broker and not self._broker_keeper:
            async with self._step("waiting for the broker", "broker ready"):
                await asyncio.to_thread(self._broker.await_ready)
            self._broker_keeper = asyncio.create_task(self._keep_broker(self._broker))
        async with self._step("applying the topology", "topology applied"):
            await self._do("topology")

    async def _do(self, *what: str) -> None:
        """A piece of work of `preparation`. Raises Failed."""
        module = " ".join(("deploy.local.preparation", *what))
        status, said = await self._children.run(module, self._own, what[0])
        if status:
            raise Failed(said)
        if said:
            self._say(said)

    async def _start_again(self, programs: list[Program]) -> None:
        """A service is new. What runs has the contracts and addresses that it started with, so each is started again,
        one after the other."""
        for program in programs:
            async with self._step(f"starting {program.name} again", f"{program.name} ready"):
                program.environment = self._environment_of(program.service, program.port)
                await program.stop()
                await all_ready([program])
        if programs and (watch := self._programs.get(_WATCH)):
            await watch.stop()

    async def _drain(self) -> None:
        """End the replicas that are too many: each finishes what it has in hand."""
        surplus = [
            program
            for program in self._services()
            if (where := replicas.split(program.name))[1] >= self._counts.get(where[0], 1)
        ]
        if not surplus:
            return
        said = ", ".join(program.name for program in surplus)
        async with self._step(f"stopping {said}", f"{said} stopped"):
            await asyncio.gather(*(program.abandon() for program in surplus))
            await asyncio.gather(*(program.stop() for program in surplus))
        for program in surplus:
            del self._programs[program.name]

    def _services(self) -> list[Program]:
        return [program for name, program in self._programs.items() if name not in _HELPERS]

    def _another_port(self) -> int:
        """For a further replica: one that nobody of ours has, even while it does not run."""
        ours = {*self._here.claimed_ports().values(), *(program.port for program in self._programs.values())}
        return free_port(besides=ours)

    def _environment_of(self, service: str, port: int) -> dict[str, str]:
        return self._here.environment_of(service) | {f"{service.upper()}_PORT": str(port)}

    async def _start(self, name: str, module: str, port: int, environment: dict[str, str]) -> None:
        program = Program(name, module, port, environment, self._here.logs, self._children)
        self._programs[name] = program
        await program.start(self._say, lambda: self._enter(self._phase), self._look)
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
                await asyncio.sleep(_BROKER_WAIT)

    async def _tear_down(self) -> None:
        """Services first, so that they can still publish and acknowledge; then the mail server; then the broker."""
        self._enter("stopping")
        if self._stop.is_set():
            self._say("stopping")
        if self._broker_keeper:
            self._broker_keeper.cancel()
            await asyncio.gather(self._broker_keeper, return_exceptions=True)
        await asyncio.gather(*(program.abandon() for program in self._programs.values()))
        if _WATCH in self._programs:  # first: what stops now is no news
            await self._programs[_WATCH].stop()
        await asyncio.gather(*(program.stop() for program in self._services()))
        if _MAIL in self._programs:
            await self._programs[_MAIL].stop()
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
            "replicas": self._counts,
            "gateway_url": here.url_of("gateway") if "gateway" in here.services else None,
            "shop_amqp_url": here.amqp_url_of("shop"),
            "mailbox": str(here.mailbox),
            "broker": self._broker.pid if self._broker else None,
            "broker_restarts": self._broker_restarts,
            "services": [
                program.entry() for program in sorted(self._services(), key=lambda one: replicas.split(one.name))
            ],
        }
        state |= {name: self._programs[name].entry() if name in self._programs else None for name in _HELPERS}
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


def supervise(
    here: Environment, counts: replicas.Counts, terminal: bool, on_ready: Callable[[], None] = lambda: None
) -> int:
    """Hold a fleet of so many processes until told to stop; the exit status. Says its lines in supervisor.log, too."""
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
            replicas.begin(here, counts)
            end_orphans(here)
            if taken := here.taken_ports():
                raise Failed("\n".join(taken))
            if broker := here.broker():
                say("starting the broker")
                broker.launch()  # it works for seconds, as does what we import now
            server = children.server()
            asyncio.run(Supervisor(here, say, on_ready, Children(server), broker).run())
        except Exception as error:  # whatever it is, the terminal and the log have to say it
            say(f"failed: {error if isinstance(error, Failed | Misconfigured) else cause_of(error)}")
            return 1
        finally:
            end_orphans(here)  # told to stop while the broker was starting, we may have missed it
        say("stopped")
    return 0


if __name__ == "__main__":
    its_own = Environment()
    sys.exit(supervise(its_own, replicas.read(sys.argv[1:], its_own.services), terminal=False))
