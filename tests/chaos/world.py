"""What faults are done to: a fleet, its broker, its databases, and the links between them."""

import asyncio
import contextlib
import os
import random
import secrets
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, Literal

import aio_pika
import asyncpg
import psutil
from sqlalchemy import select
from sqlalchemy.engine import make_url

from contracts.flow import SERVICES, SHOP
from deploy.local import install
from deploy.local.ports import free_port
from deploy.local.rabbitmq import RabbitNode
from services.orders.store import ListPrice
from shared.messaging import topology
from shared.persistence.database import Database
from tests.chaos import release
from tests.chaos.office import Office
from tests.chaos.proxy import Link
from tests.chaos.shop import FIRST_LEVEL, Shop
from tests.fleet import Fleet, migrate_here
from tests.postgres import PostgresCluster
from tests.running import until
from tests.servers import manage
from tests.several import Process

COUNTS = {"stock": 2, "orders": 2, "email": 2}
LADDER = ("1s", "2s", "4s", "8s", "16s")
"""Half a minute in all: long enough for what waits for a dead process's outbox, short enough to be waited for."""
CLOCK = Path(__file__).parent / "clock"
DISK_MB = {"sqlite": 64, "postgresql": 512}
Kind = Literal["sqlite", "postgresql"]
CHANCE: ContextVar[random.Random] = ContextVar("CHANCE")
"""What the fault that is at work draws from: its own, or what it draws would hang on how two of them take turns."""
MOMENT_SECONDS, LONG_MOMENT_SECONDS = 5.0, 20.0
"""From a mail server's answer to the commit at the most, and where something else is broken at that time."""


class Passed(Exception):
    """This machine does not let us do that; the text says what."""


class World:
    """A fleet on a broker and on databases of its own, reached through links that can fail."""

    def __init__(
        self, folder: Path, kind: Kind, seed: object, say: Callable[[str], None], load: float, old: Path | None = None
    ) -> None:
        self.folder, self.kind, self.say, self._old = folder, kind, say, old
        self.poison: dict[str, float] = {}
        """The marks of what was sent, and how many dead letters it may have become at the most."""
        self.is_calm = True
        """Whether no other fault happens at the same time."""
        self.email_deaths: list[tuple[float, float]] = []
        """For each, since and until when (epoch seconds) a mail may have been sent and not been written down."""
        self.rabbit = RabbitNode(folder / "rabbitmq", *(free_port() for _ in range(4)), secrets.token_hex(8))
        self.postgres = PostgresCluster(folder / "postgres", free_port()) if kind == "postgresql" else None
        self.disk = self.postgres.folder if self.postgres else folder / "databases"
        self.links: dict[tuple[str, str], Link] = {}
        """By process and `broker` or `database`."""
        self._passwords = {user: secrets.token_hex(8) for user in (*SERVICES, SHOP)}
        self._seed, self._load = seed, load
        self.is_small_disk = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["World"]:
        """All is started, stocked up and ready inside the block."""
        self.disk.mkdir(parents=True, exist_ok=True)
        self.is_small_disk = self._mount()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._start_broker())
                group.create_task(self._start_fleet())
            shop_url = self.rabbit.url_for(SHOP, self._passwords[SHOP])
            self.shop = Shop(self.fleet.url, shop_url, self._seed, orders_a_second=self._load)
            self.office = Office(self.shop, self._seed)
            await self.fleet.ready()
            await self.shop.stock_up()
            await self._priced()
            yield self
        finally:
            await self._end()

    async def _start_broker(self) -> None:
        await asyncio.to_thread(self.rabbit.start)
        if self._old:
            await release.apply_topology(self._old, *self._broker())
        else:
            await self.apply_topology()

    async def apply_topology(self) -> None:
        """What `malote topology apply` does."""
        await topology.apply(*self._broker())

    def _broker(self) -> tuple[str, str, Mapping[str, str], Sequence[str]]:
        return self.rabbit.amqp_url, self.rabbit.management_url, self._passwords, LADDER

    async def set_password(self, user: str, password: str | None = None) -> None:
        """At the broker alone; without one, that which the services have."""
        body = {"password": password or self._passwords[user], "tags": ""}
        await asyncio.to_thread(manage, self.rabbit, "PUT", f"/users/{user}", body)

    async def _start_fleet(self) -> None:
        if self.postgres:
            await asyncio.to_thread(self.postgres.start)
            urls = {service: self.postgres.create_database(service) for service in SERVICES}
        else:
            urls = {service: f"sqlite:///{self.disk}/{service}.db" for service in SERVICES}
        for name in (f"{service}.{number + 1}" for service in SERVICES for number in range(COUNTS.get(service, 1))):
            targets = {"broker": self.rabbit.amqp_port} | ({"database": self.postgres.port} if self.postgres else {})
            for what, port in targets.items():
                link = self.links[name, what] = Link(port)
                await link.open()
        amqp = {service: self.rabbit.url_for(service, self._passwords[service]) for service in SERVICES}
        migrated = partial(release.migrated, self._old) if self._old else migrate_here
        self.fleet = Fleet(self.folder, amqp, urls, COUNTS, self._environment, self._link_of, migrated)
        for process in self.fleet.processes.values():
            process.root = self._old or process.root
        await self.fleet.start()

    def _link_of(self, who: str, port: int) -> int:
        return self.links[who, "broker" if port == self.rabbit.amqp_port else "database"].port

    def _environment(self, who: str) -> dict[str, str]:
        clock = {"PYTHONPATH": str(CLOCK), "CHAOS_CLOCK": str(self.folder / f"{who}.clock")}
        return {"MALOTE_RETRY_LADDER": ",".join(LADDER), **clock}

    async def _priced(self) -> None:
        """Until orders knows all prices."""
        database = Database(self.fleet.database_urls["orders"])

        async def look() -> bool:
            async with database.reading() as session:
                return len((await session.scalars(select(ListPrice))).all()) == len(FIRST_LEVEL)

        await until(look, "the price list", 60)
        await database.dispose()

    def _mount(self) -> bool:
        if os.geteuid() != 0 or not shutil.which("mount"):
            return False
        options = f"size={DISK_MB[self.kind]}m,mode=755"
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "chaos", self.disk], capture_output=True)
        return mounted.returncode == 0

    async def _end(self) -> None:
        for part in ("shop", "fleet"):
            if part in vars(self):
                await self.shop.close() if part == "shop" else self.fleet.end()
        await asyncio.gather(*(link.close() for link in self.links.values()))
        self.rabbit.kill()
        if self.postgres:
            self.postgres.kill()
        if self.is_small_disk:
            subprocess.run(["umount", "--lazy", self.disk], check=False)
        if self.postgres:
            self.postgres.remove()

    @property
    def random(self) -> random.Random:
        """What a fault draws its victims and moments from."""
        return CHANCE.get()

    # -- processes ----------------------------------------------------------------------------------------------

    def a_process(self, service: str | None = None) -> str:
        """The name of one, of any service or of this."""
        return self.random.choice(self.fleet.of(service) if service else list(self.fleet.processes))

    def kill(self, name: str) -> None:
        """SIGKILL."""
        self.process(name).kill()
        self.was_dead(name, time.time())

    def was_dead(self, name: str, since: float) -> None:
        """It was, or others had to take it for that, from then until now."""
        before = MOMENT_SECONDS if self.is_calm else LONG_MOMENT_SECONDS
        if name.startswith("email."):
            self.email_deaths.append((since - before, time.time() + MOMENT_SECONDS))

    def process(self, name: str) -> Process:
        return self.fleet.processes[name]

    @contextlib.asynccontextmanager
    async def frozen(self, name: str) -> AsyncIterator[None]:
        """SIGSTOP, SIGCONT."""
        pid = self.process(name).pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def set_clock(self, name: str, seconds: float) -> None:
        """Set a process's time of day wrong."""
        path = self.folder / f"{name}.clock"
        path.with_suffix(".new").write_text(str(seconds))
        path.with_suffix(".new").rename(path)

    async def is_ready(self) -> bool:
        """Whether all processes are."""
        return not await self.unready()

    async def unready(self) -> list[str]:
        """Those that are not."""
        names = list(self.fleet.processes)
        ready = await asyncio.gather(*(self.process(name).is_ready() for name in names), return_exceptions=True)
        return [name for name, is_ready in zip(names, ready, strict=True) if is_ready is not True]

    # -- the broker ---------------------------------------------------------------------------------------------

    async def manage(self, method: str, path: str) -> Any:
        """Ask the management API; None if there is no answer to be had."""
        with contextlib.suppress(OSError):
            return await asyncio.to_thread(manage, self.rabbit, method, path)
        return None

    async def eval(self, erlang: str) -> str:
        """Let the node evaluate an expression."""
        program = install.rabbitmq().with_name("rabbitmqctl")
        if not program.exists() or not self.rabbit.pid:
            raise Passed("there is no rabbitmqctl beside rabbitmq-server")
        environment = psutil.Process(self.rabbit.pid).environ()
        command = [str(program), "--longnames", "--node", environment["RABBITMQ_NODENAME"], "eval", erlang]
        done = await asyncio.to_thread(
            subprocess.run, command, env=environment, capture_output=True, text=True, timeout=60
        )
        if done.returncode != 0:
            raise RuntimeError(f"rabbitmqctl: {done.stdout}{done.stderr}")
        return str(done.stdout)

    @contextlib.asynccontextmanager
    async def administrator(self) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
        """A channel that may do everything."""
        async with await aio_pika.connect(self.rabbit.amqp_url, timeout=10) as connection:
            yield await connection.channel(on_return_raises=True)

    # -- the databases ------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def locked(self, service: str, table: str) -> AsyncIterator[None]:
        """Somebody else holds a service's database: all of SQLite's, one table of PostgreSQL's."""
        url = make_url(self.fleet.database_urls[service])
        if self.postgres:
            connection = await asyncpg.connect(self.postgres.url(service))
            try:
                async with connection.transaction():
                    await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
                    yield
            finally:
                await connection.close()
            return
        holder = sqlite3.connect(url.database or "", timeout=30, isolation_level=None)
        try:
            holder.execute("BEGIN EXCLUSIVE")
            yield
            holder.execute("ROLLBACK")
        finally:
            holder.close()

    @contextlib.asynccontextmanager
    async def at_postgres(self) -> AsyncIterator[asyncpg.Connection]:
        """An administrator's own connection, to none of the services' databases."""
        assert self.postgres
        connection = await asyncpg.connect(self.postgres.url("postgres"))
        try:
            yield connection
        finally:
            await connection.close()

    async def rename_table(self, service: str, table: str, to: str) -> None:
        """Waits for who is at it."""
        statement = f"ALTER TABLE {table} RENAME TO {to}"
        if self.postgres:
            connection = await asyncpg.connect(self.postgres.url(service))
            try:
                await connection.execute(statement)
            finally:
                await connection.close()
            return
        with contextlib.closing(sqlite3.connect(self.file_of(service), timeout=30, isolation_level=None)) as alone:
            alone.execute("PRAGMA legacy_alter_table = ON")  # or it would have a look at all other tables
            alone.execute(statement)

    def file_of(self, service: str) -> Path:
        """Where SQLite has a service's database."""
        return Path(make_url(self.fleet.database_urls[service]).database or "")

    @contextlib.asynccontextmanager
    async def empty_database(self, service: str) -> AsyncIterator[None]:
        """In place of the service's own, whose processes are dead."""
        if self.postgres:
            async with self.at_postgres() as connection:
                await self._swap(connection, service, f"{service}_aside")
                await connection.execute(f'CREATE DATABASE "{service}"')
                yield
                await self._end_sessions(connection, service)
                await connection.execute(f'DROP DATABASE "{service}"')
                await self._swap(connection, f"{service}_aside", service)
            return
        own = self.file_of(service)
        aside = own.with_name("aside")
        aside.mkdir()
        for file in own.parent.glob(f"{own.name}*"):
            file.rename(aside / file.name)
        yield
        for file in own.parent.glob(f"{own.name}*"):
            file.unlink()
        for file in aside.iterdir():
            file.rename(own.parent / file.name)
        aside.rmdir()

    async def _swap(self, connection: asyncpg.Connection, name: str, to: str) -> None:
        await self._end_sessions(connection, name)
        await connection.execute(f'ALTER DATABASE "{name}" RENAME TO "{to}"')

    async def _end_sessions(self, connection: asyncpg.Connection, database: str) -> None:
        """Of the dead: the server may not have seen yet that they are."""
        gone = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1"

        async def look() -> bool:
            return await connection.fetchval(gone, database) == 0

        await until(look, f"nobody to be at {database}", 20)

    @contextlib.contextmanager
    def full_disk(self) -> Any:
        """No room is left where the databases are. Raises `Passed` where we may not mount a small disk."""
        if not self.is_small_disk:
            raise Passed("only root may mount the small disk that is to be filled")
        ballast = self.disk / "ballast"
        try:
            with ballast.open("wb") as file, contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * 65_536)
                    file.flush()
            yield
        finally:
            ballast.unlink()
