"""A mail server for one machine: every mail ends in the Maildir `.data/mail`."""

import asyncio
import json
import mailbox
import signal
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import default
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

from deploy.local.environment import Environment
from deploy.local.ports import HOST


class Sink:
    """Answers 250 once the mail is in the mailbox: synced in its `tmp`, then moved, as Maildir does."""

    def __init__(self, folder: Path) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._box = mailbox.Maildir(folder, create=True)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """The name that aiosmtpd calls."""
        content = envelope.content if isinstance(envelope.content, bytes) else b""
        key = self._box.add(content)
        mail = message_from_bytes(content, policy=default)
        line = {  # recipients are stored with the mail
            "timestamp": datetime.now(UTC).isoformat(),
            "event": "mail",
            "recipients": len(envelope.rcpt_tos),
            "message_id": mail["message-id"],
            "file": key,
        }
        print(json.dumps(line, ensure_ascii=False), flush=True)
        return "250 OK"


async def serve(folder: Path, port: int) -> None:
    """Accept mail until SIGTERM or SIGINT."""
    sink = Sink(folder)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for what in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(what, stop.set)
    # The host name is given because aiosmtpd would look it up, and wait where it does not resolve.
    server = await loop.create_server(lambda: SMTP(sink, hostname="localhost", loop=loop), HOST, port)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    here = Environment()
    asyncio.run(serve(here.mailbox, here.smtp_port))
