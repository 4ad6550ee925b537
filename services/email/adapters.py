"""The outside world: the SMTP server."""

import asyncio
import contextlib
import math
import time
from binascii import b2a_qp
from collections.abc import Iterator
from email.header import Header
from email.utils import format_datetime, formataddr, parseaddr
from functools import lru_cache

from aiosmtplib import SMTP, SMTPException, SMTPResponseException, SMTPTimeoutError

from services.email.domain import Stage, answer, is_about_us, is_final
from services.email.settings import EmailSettings
from services.email.store import Mail
from shared.messaging.unit import Demand
from shared.observability import tracing
from shared.persistence.clock import moment
from shared.persistence.database import Outage

CONNECTIONS = 16
"""How many mails are sent at once. A mail has its connection until its outcome is committed, so at most this many
outcomes are unknown after the process dies. Many servers accept at most 20 connections from one client."""

IDLE_SECONDS = 30.0
"""How long a connection is kept for the next mail."""

DATA_SECONDS = 600.0
"""How long the server may take to accept a mail after its text was sent (RFC 5321, 4.5.3.2.6). A client that gives up
earlier sends the mail twice, because the server may have accepted it."""

SLOW_SECONDS = 15.0
"""`/readyz` names a server that needs longer for an answer. The timeouts that make a mail fail are much longer."""

SHORT = 60
"""Characters of a name or a subject that need no folding."""

LINE = "\r\n"
_BOUNDARY = "=_malote"  # no quoted-printable text has `=_` in it: RFC 2045, 6.7


class Refused(Exception):
    """The server refuses this mail for good; the text is its answer."""


class NotSent(Exception):
    """The mail was not sent; a later try may succeed."""


class NoSession(Outage):
    """The server accepts no session or no mail at all. The reason is not in the mail."""


class Mailer:
    """Sends mails to the SMTP server, over connections that are reused."""

    name = "mail server"

    def __init__(self, settings: EmailSettings) -> None:
        """Connections are opened when a mail is sent."""
        self.settings = settings
        self._tls = None if settings.smtp_tls == "none" else settings.tls.context
        self._idle: list[tuple[SMTP, asyncio.TimerHandle]] = []
        self._asked: dict[object, float] = {}  # the start of the wait for each answer, by the monotonic clock

    def concern(self) -> str | None:
        """The time for which the server has not answered, if it is long; None otherwise."""
        longest = time.monotonic() - min(self._asked.values(), default=math.inf)
        if longest < SLOW_SECONDS:
            return None
        return f"no answer from {self._server} for {longest:.0f} s: mails wait for it"

    @property
    def _server(self) -> str:
        return f"{self.settings.smtp_host}:{self.settings.smtp_port}"

    async def deliver(self, mail: Mail, demand_ours: Demand) -> str:
        """Send a mail; return the server's answer. Raises `Refused`, `NotSent` or `NoSession`.

        `demand_ours` is called directly before the text is sent, because a sent mail cannot be taken back. Raises what
        `demand_ours` raises."""
        content = to_bytes(mail, self.settings.sender)
        where = {"server.address": self.settings.smtp_host, "server.port": self.settings.smtp_port}
        with tracing.step("smtp send", {"network.protocol.name": "smtp", **where}):
            client = await self._ready_for(mail.recipient)
            with _judged(client, "DATA"):
                await demand_ours()
                with self._answered():
                    response = await client.data(content, timeout=DATA_SECONDS)
        self._keep(client)
        return answer(response.code, response.message)

    async def _ready_for(self, recipient: str) -> SMTP:
        """A connection on which the server has accepted sender and recipient."""
        if self._idle:
            try:
                return await self._announce(self._take(), recipient)
            except (NotSent, NoSession) as error:  # the server has closed it meanwhile: open a new one
                if _is_silence(error):  # a new connection would only time out as well
                    raise error if isinstance(error, NoSession) else self._taken_from_nobody(error) from error
        return await self._announce(await self._connect(), recipient)

    async def _announce(self, client: SMTP, recipient: str) -> SMTP:
        try:
            with _judged(client, "MAIL"), self._answered():
                await client.mail(self.settings.sender_address)
        except NotSent as error:  # the server knows only the sender so far
            raise self._taken_from_nobody(error) from error
        try:
            with _judged(client, "RCPT"), self._answered():
                await client.rcpt(recipient)
        except NotSent as error:
            said = error.__cause__
            if isinstance(said, SMTPResponseException) and is_about_us(said.code, said.message):
                raise self._taken_from_nobody(error) from error
            raise
        return client

    def _taken_from_nobody(self, error: NotSent) -> NoSession:
        return NoSession(f"no mail is taken at {self._server}: {error}")

    async def _connect(self) -> SMTP:
        settings, password = self.settings, self.settings.smtp_password
        client = SMTP(
            hostname=settings.smtp_host,
            port=settings.smtp_port,
            username=settings.smtp_username,
            password=password.get_secret_value() if password else None,
            local_hostname=settings.domain,  # the default asks the DNS for the name of this host, which can take long
            timeout=settings.smtp_timeout,
            use_tls=settings.smtp_tls == "tls",
            start_tls=settings.smtp_tls == "starttls",
            tls_context=self._tls,
        )
        try:
            with self._answered():
                await client.connect()
        except (SMTPException, OSError) as error:  # here even a 5xx is about this client, not about the mail
            raise NoSession(f"no SMTP session with {self._server}: {_said(error)}") from error
        return client

    @contextlib.contextmanager
    def _answered(self) -> Iterator[None]:
        asked = object()
        self._asked[asked] = time.monotonic()
        try:
            yield
        finally:
            self._asked.pop(asked, None)

    def _keep(self, client: SMTP) -> None:
        closing = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._drop, client)
        self._idle.append((client, closing))

    def _take(self) -> SMTP:
        client, closing = self._idle.pop()
        closing.cancel()
        return client

    def _drop(self, client: SMTP) -> None:
        self._idle = [kept for kept in self._idle if kept[0] is not client]
        client.close()


def to_bytes(mail: Mail, sender: str) -> bytes:
    """The mail as it is sent: always the same bytes, so that Message-ID and Date identify a repeat.

    The standard library's `EmailMessage` parses its own headers again and again, which took most of the time of a mail.
    """
    head = (
        # Python would decode what looks like an encoded word in an address, line breaks included:
        # `=?utf-8?q?=0a?=@x.com`.
        f"To: {mail.recipient}\r\n"
        f"{_sender(sender)}{_subject(mail.subject)}"
        f"Date: {format_datetime(moment(mail.created_at))}\r\n"
        f"Message-ID: {mail.message_id}\r\n"
        "Auto-Submitted: auto-generated\r\n"  # RFC 3834: asks for no out-of-office answer
        f"Content-Language: {mail.locale}\r\n"
        "MIME-Version: 1.0\r\n"
        f'Content-Type: multipart/alternative; boundary="{_BOUNDARY}"\r\n\r\n'
    )
    return head.encode("ascii") + _part("plain", mail.text) + _part("html", mail.html) + f"--{_BOUNDARY}--\r\n".encode()


def _part(subtype: str, text: str) -> bytes:
    head = (
        f"--{_BOUNDARY}\r\n"
        f'Content-Type: text/{subtype}; charset="utf-8"\r\n'
        "Content-Transfer-Encoding: quoted-printable\r\n\r\n"
    )
    # The library copies line breaks unchanged, so they have to be those of SMTP.
    return head.encode() + b2a_qp(b"".join(line + b"\r\n" for line in text.encode().splitlines())) + b"\r\n"


@lru_cache(maxsize=1)
def _sender(sender: str) -> str:
    """The `From` header. The standard library drops the quotes of a long name when it folds it; a comma in the name
    then makes several addresses of one."""
    name, address = parseaddr(sender)
    if name.isascii():  # quoted if necessary, on a line of its own if long
        said, space = formataddr((name, address)).rpartition(" ")[::2], LINE if len(name) > SHORT else ""
        return f"From: {f'{space} '.join(filter(None, said))}{LINE}"
    return f"From: {Header(name, 'utf-8', header_name='From').encode(linesep=LINE)}{LINE} <{address}>{LINE}"


def _subject(subject: str) -> str:
    if subject.isascii() and subject.isprintable() and len(subject) <= SHORT:  # needs no encoding and no folding
        return f"Subject: {subject}\r\n"
    # The standard library's policy loses blanks between encoded words.
    return "Subject: " + Header(subject, "utf-8", header_name="Subject").encode(linesep=LINE) + LINE


@contextlib.contextmanager
def _judged(client: SMTP, stage: Stage) -> Iterator[None]:
    """Raise what a failure means for the mail, and close the connection, whose state is unknown."""
    try:
        yield
    except SMTPResponseException as error:
        client.close()
        raise (Refused if is_final(error.code, error.message, stage) else NotSent)(_said(error)) from error
    except (SMTPException, OSError) as error:
        client.close()
        raise NotSent(_said(error)) from error
    except BaseException:
        client.close()
        raise


def _is_silence(error: BaseException) -> bool:
    """Whether an error means that the server did not answer in time."""
    cause: BaseException | None = error
    while cause and not isinstance(cause, SMTPTimeoutError):
        cause = cause.__cause__
    return cause is not None


def _said(error: BaseException) -> str:
    if isinstance(error, SMTPResponseException):
        return answer(error.code, error.message)
    return str(error) or type(error).__name__
