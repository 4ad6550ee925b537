"""Email that dies while it sends: nothing is lost, and what is doubled is bounded."""

import asyncio
import signal

from services.email.adapters import CONNECTIONS
from tests.chaos.processes import program
from tests.integration.test_email_outgoing import Server
from tests.migrated import migrate
from tests.running import Broker, an_order, until


async def test_a_killed_process_doubles_at_most_a_mail_a_connection(broker: Broker, database_url: str) -> None:
    """SMTP has no way to ask what became of a mail: each that a server has in hand at a death is sent again."""
    await asyncio.to_thread(migrate, "email", database_url)
    server = Server()
    await asyncio.gather(*(broker.publish(an_order(), id_=f"order-{number}") for number in range(80)))
    async with server.listening() as port:
        async with program("mailing", broker.url, database_url, str(port)) as process:
            await until(lambda: _are_there(len(server.taken), 30), "some mails", 90)
            process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait, 60)
        async with program("mailing", broker.url, database_url, str(port)):
            await until(lambda: _are_there(len(set(server.message_ids())), 80), "all mails", 90)
    assert len(server.taken) - 80 <= CONNECTIONS


async def _are_there(number: int, wanted: int) -> bool:
    return number >= wanted
