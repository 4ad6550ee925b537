"""Email whose mails take their time, as a process of its own that is started again whenever it dies.

python -m tests.integration.programs.email AMQP_URL DATABASE_URL KILLER'S_MAIL_ID
"""

import asyncio
import os
import signal
import sys
from uuid import UUID

from fastapi import APIRouter

from contracts.email import DeliverMail
from shared.messaging import membership
from shared.messaging.handler import on
from shared.messaging.unit import UnitOfWork
from shared.service import Service
from shared.service.process import run
from tests.integration.programs.stock import supervise
from tests.running import module_of, settings_for

amqp_url, database_url, killer = sys.argv[1:]


@on(DeliverMail, concurrency=64)
async def on_deliver_mail(command: DeliverMail, unit: UnitOfWork) -> None:
    await asyncio.sleep(0.1)
    if command.mail_id == UUID(killer):
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(0.1)  # so that all that began with the killer are in hand when it kills


def serve() -> None:
    settings = settings_for("email", amqp_url, database_url, log_level="WARNING")
    run(Service(settings, module_of(on_deliver_mail), APIRouter()))


if __name__ == "__main__":
    membership.HEARTBEAT_SECONDS, membership.DEAD_AFTER_SECONDS = 0.1, 1.0
    supervise(serve)
