"""What has to be there before the services start, and what a new shop is filled with.

The supervisor has it done by processes that end: `python -m deploy.local.preparation migrate SERVICE…`, `topology` or
`catalogue`. They have the contracts as they are now, and it stays small.
"""

import asyncio
import re
import sys

import httpx
from aio_pika.exceptions import AMQPError

from deploy.local.catalogue import seed
from deploy.local.environment import Environment, Misconfigured
from deploy.local.program import Failed
from shared.http import tokens
from shared.messaging import topology
from shared.messaging.old_queues import Left, TooLarge
from shared.persistence import database


def migrate(here: Environment, service: str) -> None:
    """Migrate its database. Raises Failed."""
    try:
        database.migrate(service, here.database_url_of(service), here.tls_of(service))
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
    except TooLarge as error:  # the topology is complete; messages in old queues do no harm
        return str(error)
    except Left as error:
        raise Failed(str(error)) from error
    return ""


async def fill_catalogue(here: Environment) -> str:
    """What was put into an empty shop, if anything was. The gateway, orders and stock have to be ready."""
    token = tokens.issue_token(here.jwt_secret, subject="seed", role="operator", ttl=600)
    count = await seed(here.url_of("gateway"), here.url_of("orders"), token)
    return f"catalogue filled with {count} products" if count else ""


def _without_login(error: Exception) -> str:
    """httpx puts the whole URL in its messages, with the administrator's password."""
    return re.sub(r"//[^/@\s]*@", "//", f"{type(error).__name__}: {error}".splitlines()[0])


def main(what: str, *services: str) -> str:
    """What there is to say about it, in one line. Raises Failed."""
    here = Environment()
    if what == "topology":
        return asyncio.run(apply_topology(here))
    if what == "catalogue":
        return asyncio.run(fill_catalogue(here))
    for service in services:
        migrate(here, service)
    return ""


if __name__ == "__main__":
    try:
        print(main(*sys.argv[1:]))
    except (Failed, Misconfigured) as error:
        sys.exit(str(error))
