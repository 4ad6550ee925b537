"""Services served over HTTP inside the test's process, with their own routes, handlers and databases."""

import asyncio
import contextlib
import importlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import httpx
import uvicorn

from shared.http.tokens import issue_token
from shared.service import Service
from tests.migrated import migrate
from tests.running import SECRET, settings_for, until

NO_BROKER = "amqp://nobody:nothing@127.0.0.1:9/"
NOBODY = "http://127.0.0.1:9"


@dataclass(frozen=True)
class Served:
    """A service that listens."""

    service: Service
    url: str
    server: uvicorn.Server

    @contextlib.asynccontextmanager
    async def client(
        self, subject: str = "ana", role: str = "customer", **more: Any
    ) -> AsyncIterator[httpx.AsyncClient]:
        """A client with a token."""
        headers = {"Authorization": f"Bearer {token(subject, role)}"}
        async with httpx.AsyncClient(base_url=self.url, headers=headers, timeout=40, trust_env=False, **more) as client:
            yield client


def token(subject: str = "ana", role: str = "customer", ttl: int = 3600) -> str:
    """A token that the tests' services trust; `ttl` in seconds."""
    return issue_token(SECRET, subject=subject, role=role, ttl=ttl)


@contextlib.asynccontextmanager
async def serving(name: str, amqp_url: str, database_url: str, **more: Any) -> AsyncIterator[Served]:
    """A migrated service that listens on a free port. Whether its broker is there is not waited for."""
    await asyncio.to_thread(migrate, name, database_url)
    if name == "gateway":  # most tests order with one address; at its own defaults somebody else's fleet may listen
        nobody = {f"{other}_url": NOBODY for other in ("orders", "stock", "email", "reports", "deadletters")}
        more = {"recipient_limit": "1000000/hour", **nobody, **more}
    handlers = importlib.import_module(f"services.{name}.handlers")
    router = importlib.import_module(f"services.{name}.api").router
    periodic = importlib.import_module(f"services.{name}.periodic") if find_spec(f"services.{name}.periodic") else None
    service = Service(settings_for(name, amqp_url, database_url, **more), handlers, router, periodic)
    server = service.server()
    server.config.timeout_graceful_shutdown = 1
    task = asyncio.create_task(server.serve(service.ports.listen()))
    try:
        await until(lambda: _is_started(server, task), f"{name} to listen")
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield Served(service, url, server)
    finally:
        server.should_exit = True
        await task


async def _is_started(server: uvicorn.Server, task: "asyncio.Task[None]") -> bool:
    if task.done():
        task.result()
    return server.started
