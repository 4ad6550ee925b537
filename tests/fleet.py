"""The whole fleet as processes on one broker: every service, some of them several times, and a mail sink."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from sqlalchemy.engine import make_url
from yarl import URL

from contracts.flow import SERVICES
from deploy.local.ports import HOST
from tests import forking
from tests.migrated import migrate
from tests.running import SECRET
from tests.several import Process, lasting_port

Link = Callable[[str, int], int]
"""Which port a process (`stock.1`) is to use in place of a server's: that of a proxy, or the server's own."""


def straight(_: str, port: int) -> int:
    """Without a proxy."""
    return port


Migrate = Callable[[str, str], Awaitable[None]]


async def migrate_here(service: str, url: str) -> None:
    """By the code of this checkout."""
    await asyncio.to_thread(migrate, service, url)


class Fleet:
    """Every service so many times as `counts` says, else once. Those of one service share its database.

    `amqp_urls` and `database_urls` are by service, `environment` says what a process is told beside that. Mails end in
    `mailbox`. The first gateway's address is `url`.
    """

    def __init__(
        self,
        folder: Path,
        amqp_urls: Mapping[str, str],
        database_urls: Mapping[str, str],
        counts: Mapping[str, int],
        environment: Callable[[str], Mapping[str, str]],
        link: Link = straight,
        migrated: Migrate = migrate_here,
    ) -> None:
        self.folder, self.database_urls = folder, dict(database_urls)
        self.mailbox = folder / "data" / "mail"
        self.processes: dict[str, Process] = {}
        self._sink: forking.Forked | None = None
        self._smtp_port = lasting_port()
        self._migrate = migrated
        self._common = {
            "MALOTE_JWT_SECRET": SECRET,
            "MALOTE_LOG_FORMAT": "json",
            "MALOTE_DATA": str(folder / "data"),
            "MALOTE_SMTP_PORT": str(self._smtp_port),
            "EMAIL_SMTP_HOST": HOST,
            "EMAIL_SMTP_PORT": str(self._smtp_port),
            "REPORTS_STORAGE_URL": str(folder / "reports"),
        }
        for service in sorted(SERVICES, key=lambda name: name in ("gateway", "reports")):  # they ask the others
            for number in range(1, counts.get(service, 1) + 1):
                name = f"{service}.{number}"
                own = {"AMQP_URL": _linked(amqp_urls[service], name, link)}
                own["DATABASE_URL"] = _linked(database_urls[service], name, link)
                own |= {f"{other.partition('.')[0]}_URL".upper(): p.url for other, p in self.of_number(1).items()}
                told = {f"{service.upper()}_{variable}": value for variable, value in own.items()}
                told |= environment(name)
                self.processes[name] = Process(service, self._common | told, folder / f"{name}.log")

    @property
    def url(self) -> str:
        return self.processes["gateway.1"].url

    def of(self, service: str) -> list[str]:
        """The names of a service's processes."""
        return [name for name in self.processes if name.partition(".")[0] == service]

    def of_number(self, number: int) -> dict[str, Process]:
        """The so-many-eth process of each service."""
        return {name: found for name, found in self.processes.items() if name.endswith(f".{number}")}

    async def start(self) -> None:
        """Migrate, and start all. The topology need not be there yet, nor the broker: services wait for it."""
        for service, url in self.database_urls.items():  # one after the other: Alembic has one context for the process
            await self._migrate(service, url)
        with (self.folder / "mailsink.log").open("ab") as log:
            environment = {**os.environ, **self._common}
            self._sink = forking.start("deploy.local.mailsink", env=environment, stdout=log, stderr=log)
        for process in self.processes.values():
            process.start()

    async def ready(self) -> None:
        """Wait for all. Raises AssertionError after a minute, with what is not ready."""
        await asyncio.gather(*(process.ready() for process in self.processes.values()))

    def end(self) -> None:
        """Kill all that runs."""
        for process in self.processes.values():
            process.kill()
        if self._sink:
            self._sink.kill()
            self._sink.wait()


def _linked(url: str, who: str, link: Link) -> str:
    if url.startswith("amqp"):
        broker = URL(url)
        return str(broker.with_port(link(who, broker.port or 5672)))
    database = make_url(url)
    if database.port is None:
        return url
    return database.set(port=link(who, database.port)).render_as_string(hide_password=False)
