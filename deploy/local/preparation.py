"""What has to be there before the services start, and what a new shop is filled with."""

import asyncio
import re
import subprocess
import sys

import httpx
from aio_pika.exceptions import AMQPError

from deploy.local.catalogue import seed
from deploy.local.environment import ROOT, Environment
from deploy.local.program import Failed
from shared.http import tokens
from shared.messaging import topology
from shared.messaging.old_queues import Left, TooLarge
from shared.persistence import database


async def migrate(here: Environment, service: str) -> None:
    """Migrate its database; one after the other, because Alembic keeps its context in a global. Raises Failed."""
    try:
        await asyncio.to_thread(database.migrate, service, here.database_url_of(service), here.tls_of(service))
    except Exception as error:  # a wrong URL, no such server, a wrong password, a migration that fails
        raise Failed(f"{service.upper()}_DATABASE_URL: {_without_login(error)}") from error


async def apply_topology(here: Environment) -> str:
    """Make all exchanges, queues and users; what is left to be done, if anything is. Raises Failed."""
    try:
        await topology.apply(here.amqp_url, here.management_url, here.passwords, here.retry_ladder, here.tls_of())
    except (OSError, ValueError, AMQPError, httpx.HTTPError) as error:
        own = here.has_own_broker
        where = "our broker" if own else "the broker of AMQP_URL (its management: AMQP_MANAGEMENT_URL)"
        raise Failed(f"{where} refused the topology: {_without_login(error)}") from error
    except TooLarge as error:  # all is there; what stays in old queues hinders nobody
        return str(error)
    except Left as error:
        raise Failed(str(error)) from error
    return ""


async def malote(*arguments: str) -> None:
    """Run a command in a process that has the code as it is now. Raises Failed, with what the command said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "deploy.cli.app", *arguments,
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    if process.returncode:
        raise Failed(f"malote {' '.join(arguments)}: {said.decode(errors='replace').strip()}")


async def fill_catalogue(here: Environment) -> int:
    """How many products were put into an empty shop. The gateway, orders and stock have to be ready."""
    token = tokens.issue_token(here.jwt_secret, subject="seed", role="operator", ttl=600)
    return await seed(here.url_of("gateway"), here.url_of("orders"), token)


def _without_login(error: Exception) -> str:
    """httpx puts the whole URL in its messages, with the administrator's password."""
    return re.sub(r"//[^/@\s]*@", "//", f"{type(error).__name__}: {error}".splitlines()[0])
