"""Stock with the handlers of `tests.integration.reserving`, as a process of its own.

python -m tests.integration.programs.stock AMQP_URL DATABASE_URL [before_publish|after_publish|supervised]

The first two say where it is killed; `supervised` starts it again whenever it dies, as a supervisor would.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence

from fastapi import APIRouter

from shared.messaging import membership
from shared.messaging.publisher import Outgoing, Publisher
from shared.service import Service
from shared.service.process import run
from tests.integration.reserving import on_order_placed
from tests.running import module_of, settings_for

publish = Publisher.publish


async def die_before(self: Publisher, messages: Sequence[Outgoing]) -> list[bool]:
    if not all(message.transient for message in messages):  # that it lives, it may say
        os.kill(os.getpid(), signal.SIGKILL)
    return await publish(self, messages)


async def die_after(self: Publisher, messages: Sequence[Outgoing]) -> list[bool]:
    confirmed = await publish(self, messages)
    if not all(message.transient for message in messages):
        os.kill(os.getpid(), signal.SIGKILL)
    return confirmed


def serve(amqp_url: str, database_url: str) -> None:
    settings = settings_for("stock", amqp_url, database_url, log_level="WARNING")
    run(Service(settings, module_of(on_order_placed), APIRouter()))


def supervise(serve: Callable[..., None], *arguments: str) -> None:
    """Start it again whenever it dies."""
    while True:
        child = os.fork()
        if not child:
            serve(*arguments)
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            return


if __name__ == "__main__":
    amqp_url, database_url, how = [*sys.argv[1:], ""][:3]
    membership.HEARTBEAT_SECONDS, membership.DEAD_AFTER_SECONDS = 0.1, 1.0
    if how == "before_publish":
        Publisher.publish = die_before
    elif how == "after_publish":
        Publisher.publish = die_after
    if how == "supervised":
        supervise(serve, amqp_url, database_url)
    else:
        serve(amqp_url, database_url)
