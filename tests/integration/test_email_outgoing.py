"""Mails on their way: a real broker, both databases, and SMTP servers that behave well and badly."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy import insert, select, update

from contracts.orders import OrderConfirmed
from contracts.stock import StockLow
from services.email import adapters
from services.email.store import Mail, MailStatus
from shared.messaging import inbox
from shared.messaging.inbox import attempts
from shared.messaging.membership import processes
from shared.messaging.suspects import LONE_ATTEMPTS
from shared.persistence import database
from shared.service import Service
from tests.integration.test_metrics import value
from tests.running import Broker, an_order, is_ready, running, until
from tests.servers import ON_SQLITE


class Server:
    """An SMTP server that says what it is told to say, and keeps what it took."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.to_sender: list[str] = []
        self.to_recipient: list[str] = []
        self.to_data: list[str] = []
        self.open, self.door = asyncio.Event(), asyncio.Event()
        self.open.set()
        self.door.set()
        self.at_door = 0
        self.waiting = 0
        self.sessions: list[SMTP] = []
        self.logins: list[str] = []

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = address
        return self.to_sender.pop(0) if self.to_sender else "250 OK"

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.at_door += 1
        await self.door.wait()
        said = self.to_recipient.pop(0) if self.to_recipient else "250 OK"
        if said.startswith("2"):
            envelope.rcpt_tos.append(address)
        return said

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.waiting += 1
        await self.open.wait()
        self.waiting -= 1
        said = self.to_data.pop(0) if self.to_data else "250 2.0.0 queued"
        if said.startswith("2"):
            assert isinstance(envelope.content, bytes)
            self.taken.append(envelope.content)
        return said

    def hang_up(self) -> None:
        """Close every connection, as a server does that has waited long enough."""
        for session in self.sessions:
            if session.transport:
                session.transport.close()

    def message_ids(self) -> list[str]:
        return sorted(message_from_bytes(content, policy=policy.default)["Message-ID"] for content in self.taken)

    @contextlib.asynccontextmanager
    async def listening(self, port: int = 0, tls: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[int]:
        """Listen, and yield the port. `tls` from the first byte on; STARTTLS is an option of aiosmtpd's."""

        def session() -> SMTP:
            made = SMTP(self, hostname="localhost", loop=asyncio.get_running_loop(), **options)
            self.sessions.append(made)
            return made

        listener = await asyncio.get_running_loop().create_server(session, "127.0.0.1", port, ssl=tls)
        try:
            yield listener.sockets[0].getsockname()[1]
        finally:
            self.open.set()
            self.door.set()
            listener.close()
            self.hang_up()


@contextlib.asynccontextmanager
async def email(broker: Broker, database_url: str, port: int, **told: Any) -> AsyncIterator[Service]:
    """The email service, sending to a port of ours."""
    told = {"smtp_port": port, "smtp_timeout": 5.0, "sender": "Malote <no-reply@shop.example>", **told}
    async with running("email", broker.url, database_url, **told) as service:
        yield service


async def mails(service: Service, status: MailStatus | None = None) -> list[Mail]:
    async with service.database.reading() as session:
        rows = (await session.scalars(select(Mail))).all()
    return [row for row in rows if status in (None, row.status)]


def some(service: Service, number: int, status: MailStatus | None = None) -> Callable[[], Any]:
    async def look() -> list[Mail]:
        found = await mails(service, status)
        return found if len(found) >= number else []

    return look


async def warned(service: Service) -> str:
    return service.warnings().get("lane email.outgoing", "")


async def settled(service: Service, number: int = 1, status: MailStatus = MailStatus.SENT) -> list[Mail]:
    """Wait until so many mails have this status."""
    found: list[Mail] = await until(some(service, number, status), f"{number} mails to be {status}")
    return found


async def test_one_message_is_one_mail_however_often_it_comes(broker: Broker, database_url: str) -> None:
    server, order = Server(), an_order()
    async with server.listening() as port, email(broker, database_url, port) as service:
        for _ in range(3):
            await broker.publish(order, id_="the-same")
        await settled(service)
        await broker.publish(order, id_="the-same")
        await broker.publish(order, id_="another")
        await settled(service, 2)
    assert server.message_ids() == ["<another@shop.example>", "<the-same@shop.example>"]


@ON_SQLITE
async def test_what_arrives_is_what_was_written(broker: Broker, database_url: str) -> None:
    server, order = Server(), an_order([("A", 3)])
    about = order.model_dump()
    confirmed = OrderConfirmed(**about, confirmed_at="2026-01-01T15:00:00Z")
    async with server.listening() as port, email(broker, database_url, port) as service:
        await broker.publish(confirmed, id_="caused\r\nBcc: x@evil.example", correlation_id="the-job")
        mail = (await settled(service))[0]
    received = message_from_bytes(server.taken[0], policy=policy.default)
    assert (mail.kind, mail.recipient, mail.correlation_id) == ("confirmed", "ana@example.com", "the-job")
    assert mail.smtp_answer == "250 2.0.0 queued"
    assert mail.sent_at
    assert received["Subject"] == mail.subject
    assert received["To"] == "ana@example.com"
    assert received["Message-ID"] == mail.message_id
    assert received["Bcc"] is None
    text, page = received.get_body(("plain",)), received.get_body(("html",))  # type: ignore[attr-defined]
    assert text.get_content().splitlines() == mail.text.splitlines()
    assert page.get_content().splitlines() == mail.html.splitlines()


@ON_SQLITE
async def test_a_4xx_is_tried_again_by_the_ladder(broker: Broker, database_url: str) -> None:
    server = Server()
    server.to_recipient, server.to_data = ["451 greylisted"], ["452 no space"]
    async with server.listening() as port, email(broker, database_url, port) as service:
        await broker.publish(an_order(), id_="m")
        assert (await settled(service))[0].smtp_answer == "250 2.0.0 queued"
    assert server.message_ids() == ["<m@shop.example>"]
    assert await broker.depth("email.outgoing.dlq") == 0


@ON_SQLITE
async def test_a_4xx_that_lasts_ends_in_the_dead_letters_with_what_the_server_said(
    broker: Broker, database_url: str
) -> None:
    server = Server()
    server.to_data = ["452 no space"] * 3
    async with server.listening() as port, email(broker, database_url, port) as service:
        await broker.publish(an_order())
        letter = await broker.take("email.outgoing.dlq")
        assert letter.headers["failure_attempts"] == 3
        assert letter.headers["failure_message"] == "452 no space"
        assert len(await mails(service, MailStatus.PENDING)) == 1


@pytest.mark.parametrize("stage", ["to_recipient", "to_data"])
async def test_a_5xx_about_the_mail_is_final_and_recorded(broker: Broker, database_url: str, stage: str) -> None:
    server = Server()
    setattr(server, stage, ["550 5.1.1 nobody of that name"])
    async with server.listening() as port, email(broker, database_url, port) as service:
        await broker.publish(an_order(), id_="refused")
        mail = (await settled(service, 1, MailStatus.FAILED))[0]
        assert (mail.smtp_answer, mail.sent_at) == ("550 5.1.1 nobody of that name", None)
        await broker.publish(an_order(), id_="next")
        await settled(service)
        assert len(await mails(service, MailStatus.FAILED)) == 1
    assert server.message_ids() == ["<next@shop.example>"]
    assert await broker.depth("email.outgoing.dlq") == 0


@pytest.mark.parametrize("stage", ["to_sender", "to_recipient", "to_data"])
@pytest.mark.parametrize("said", ["530 5.7.0 authentication required", "503 5.5.1 need MAIL first"])
@ON_SQLITE
async def test_a_5xx_about_the_session_is_tried_again_on_a_fresh_connection(
    broker: Broker, database_url: str, stage: str, said: str
) -> None:
    server = Server()
    async with server.listening() as port, email(broker, database_url, port) as service:
        await broker.publish(an_order(), id_="first")
        await settled(service)
        setattr(server, stage, [said])
        await broker.publish(an_order(), id_="second")
        await settled(service, 2)
        assert len(server.sessions) == 2
    assert server.message_ids() == ["<first@shop.example>", "<second@shop.example>"]


@ON_SQLITE
async def test_a_server_that_is_not_there_yet_is_waited_for(broker: Broker, database_url: str) -> None:
    server = Server()
    async with server.listening() as port:
        pass
    async with email(broker, database_url, port) as service:
        await broker.publish(an_order())
        assert f"no SMTP session with 127.0.0.1:{port}" in await until(lambda: warned(service), "a warning")
        async with server.listening(port):
            await settled(service)
    assert len(server.taken) == 1


@ON_SQLITE
async def test_a_connection_is_used_again_and_replaced_when_the_server_closed_it(
    broker: Broker, database_url: str
) -> None:
    server = Server()
    spied = await broker.spy(("retry.100ms", "#"))
    async with server.listening() as port, email(broker, database_url, port) as service:
        for number in range(1, 4):
            await broker.publish(an_order())
            await settled(service, number)
        assert len(server.sessions) == 1
        server.hang_up()
        await broker.publish(an_order())
        await settled(service, 4)
        server.to_sender = ["421 closing"]  # what a server says that restarts, to the first command it gets
        await broker.publish(an_order())
        await settled(service, 5)
        assert len(server.sessions) == 3
    assert len(server.taken) == 5
    assert await spied.collect(0) == []


@ON_SQLITE
async def test_a_server_that_hangs_up_in_the_middle_gets_the_mail_again_under_the_same_id(
    broker: Broker, database_url: str
) -> None:
    server = Server()
    server.open.clear()
    async with server.listening() as port, email(broker, database_url, port) as service:
        await broker.publish(an_order(), id_="m")
        await until(lambda: _is(server.waiting == 1), "the server to have the mail in hand")
        server.hang_up()
        server.open.set()
        await settled(service)
        assert set(server.message_ids()) == {"<m@shop.example>"}


async def test_while_a_server_is_frozen_mails_wait_uncounted_and_one_at_a_time_tries_it(
    broker: Broker, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes connections and says nothing, for longer than the whole ladder."""
    monkeypatch.setattr(database.Backoff, "wait", lambda self: asyncio.sleep(0.02))
    sessions, most, server = 0, 0, Server()
    opened, at_once = asyncio.Event(), 0

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sessions, most, at_once
        sessions, at_once = sessions + 1, at_once + 1
        most = max(most, at_once) if opened.is_set() else 0
        await reader.read()
        at_once -= 1
        writer.close()

    frozen = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = frozen.sockets[0].getsockname()[1]
    async with email(broker, database_url, port, smtp_timeout=0.2) as service:
        for number in range(5):
            await broker.publish(an_order(), id_=f"m{number}")
        why = await until(lambda: warned(service), "a warning")
        assert f"no SMTP session with 127.0.0.1:{port}: Timed out" in why
        assert await is_ready(service), "what else it does goes on"
        assert value("malote_lane_paused", service="email", lane="email.outgoing") == 1
        await until(lambda: _is(at_once == 0), "those that were begun before to end")
        opened.set()
        before = sessions
        await until(lambda: _is(sessions > before + 10), "more tries than the ladder has steps")
        assert most == 1
        assert await broker.depth("email.outgoing.dlq") == 0
        frozen.close()
        async with server.listening(port):
            await settled(service, 5)
        assert await warned(service) == ""
        assert value("malote_lane_paused", service="email", lane="email.outgoing") == 0
    assert server.message_ids() == [f"<m{number}@shop.example>" for number in range(5)]


@ON_SQLITE
async def test_a_kept_connection_to_a_server_that_froze_is_found_out_in_one_time_limit_and_not_in_two(
    broker: Broker, database_url: str
) -> None:
    server = Server()
    async with server.listening() as port, email(broker, database_url, port, smtp_timeout=0.5) as service:
        await broker.publish(an_order())
        await settled(service, 1)
        server.door.clear()
        await broker.publish(an_order())
        why = await until(lambda: warned(service), "a warning")
        assert f"no mail is taken at 127.0.0.1:{port}: Timed out" in why
        server.door.set()
        await settled(service, 2)
    assert len(set(server.message_ids())) == 2


@ON_SQLITE
async def test_a_server_that_does_not_answer_is_named_long_before_anything_fails_of_it(
    broker: Broker, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "SLOW_SECONDS", 0.2)
    server = Server()
    async with server.listening() as port, email(broker, database_url, port, smtp_timeout=60) as service:
        server.door.clear()
        await broker.publish(an_order())

        async def named() -> str:
            return service.warnings().get("mail server", "")

        assert f"no answer from 127.0.0.1:{port} for " in await until(named, "the server to be named")
        assert await is_ready(service)
        server.door.set()
        await settled(service, 1)
        assert await named() == ""


@ON_SQLITE
async def test_what_a_server_says_of_one_mail_stops_no_other(broker: Broker, database_url: str) -> None:
    server = Server()
    server.to_recipient = ["451 greylisted"] * 3
    async with server.listening() as port, email(broker, database_url, port) as service:
        await broker.publish(an_order())
        await broker.take("email.outgoing.dlq")
        assert "one message at a time" not in await warned(service)


async def test_a_service_that_stops_while_its_server_is_away_counts_nobodys_death(
    broker: Broker, database_url: str
) -> None:
    """Deployments during an outage must not look like as many deaths by a mail."""
    server = Server()
    async with server.listening() as port:
        pass
    for _ in range(LONE_ATTEMPTS + 1):
        async with email(broker, database_url, port) as service:
            await broker.publish(an_order())
            await until(lambda: warned(service), "a warning")
    async with email(broker, database_url, port) as service, server.listening(port):
        await settled(service, LONE_ATTEMPTS + 1)
    assert await broker.depth("email.outgoing.dlq") == 0


@ON_SQLITE
async def test_a_slow_server_holds_up_nobody_else(broker: Broker, database_url: str) -> None:
    server = Server()
    server.open.clear()
    async with server.listening() as port, email(broker, database_url, port) as service:
        for _ in range(40):
            await broker.publish(an_order())
        await until(some(service, 40, MailStatus.PENDING), "all mails to be written down")
        await until(lambda: _is(server.waiting == 16), "16 mails to be at the server at once")
        assert not any((await service.checks()).values())
        server.open.set()
        await settled(service, 40)
    assert len(server.taken) == len(set(server.message_ids())) == 40
    assert len(server.sessions) <= 16


@pytest.mark.parametrize("what", ["is sending it", "has sent it"])
async def test_a_mail_that_a_successor_took_over_meanwhile_is_not_handed_to_the_server(
    broker: Broker, database_url: str, what: str
) -> None:
    """As for a process that was frozen while the server looked at the recipient."""
    server = Server()
    server.door.clear()
    async with server.listening() as port, email(broker, database_url, port) as service:
        await broker.publish(an_order())
        await until(lambda: _is(server.at_door == 1), "the mail to be at the server's door")
        async with service.database.transaction() as session:
            if what == "is sending it":
                await session.execute(insert(processes).values(id="a successor", host="", seen_at=0.0))
                await session.execute(update(attempts).values(owner="a successor"))
            else:
                command = (await session.scalars(select(attempts.c.message_id))).one()
                await inbox.end_attempts(session, "email.outgoing", [command])
                await inbox.claim(session, "email.outgoing", [command])
        server.door.set()
        lane = next(lane for lane in service.lanes if lane.name == "email.outgoing")
        await until(lambda: _is(not lane.intake.unanswered()), "the mail to be let go")
        assert server.taken == []


@ON_SQLITE
async def test_low_stock_goes_to_each_operator(broker: Broker, database_url: str) -> None:
    server = Server()
    told = {"operators": "ops@example.com,boss@example.com", "operators_locale": "en"}
    async with server.listening() as port, email(broker, database_url, port, **told) as service:
        await broker.publish(StockLow(sku="A", name="Mug", available=1, threshold=5), id_="low")
        found = await settled(service, 2)
    assert {mail.recipient for mail in found} == {"ops@example.com", "boss@example.com"}
    assert server.message_ids() == ["<low.2@shop.example>", "<low@shop.example>"]


@pytest.mark.parametrize("how", ["starttls", "tls"])
@ON_SQLITE
async def test_the_session_is_encrypted_and_logged_in(
    broker: Broker, database_url: str, how: str, tmp_path: Path
) -> None:
    server, certificate = Server(), a_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def check(smtp: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        server.logins.append(data.login.decode())
        return AuthResult(success=data.password == b"secret")

    options: dict[str, Any] = {"authenticator": check}
    if how == "starttls":
        options |= {"tls_context": context, "require_starttls": True, "auth_required": True}
    else:
        options |= {"auth_require_tls": False}  # aiosmtpd knows only of its own STARTTLS
    login = {"smtp_host": "localhost", "smtp_tls": how, "smtp_username": "malote", "smtp_password": "secret"}
    login["tls_ca_file"] = str(certificate)
    listening = server.listening(tls=context if how == "tls" else None, **options)
    async with listening as port, email(broker, database_url, port, **login) as service:
        await broker.publish(an_order())
        await settled(service)
    assert server.logins == ["malote"]


@ON_SQLITE
async def test_a_wrong_password_is_our_fault_and_not_the_mails(broker: Broker, database_url: str) -> None:
    server = Server()
    options = {"authenticator": lambda *_: AuthResult(success=False, handled=False), "auth_require_tls": False}
    login = {"smtp_username": "malote", "smtp_password": "wrong"}
    async with server.listening(**options) as port, email(broker, database_url, port, **login) as service:
        await broker.publish(an_order())
        why = await until(lambda: warned(service), "a warning")
        assert "535" in why
        assert "wrong" not in why
        assert len(await mails(service, MailStatus.PENDING)) == 1


@ON_SQLITE
async def test_a_certificate_that_nobody_vouches_for_is_not_trusted(
    broker: Broker, database_url: str, tmp_path: Path
) -> None:
    server, context = Server(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(a_certificate(tmp_path))
    told = {"smtp_host": "localhost", "smtp_tls": "starttls"}
    async with server.listening(tls_context=context) as port, email(broker, database_url, port, **told) as service:
        await broker.publish(an_order())
        assert "certificate" in (await until(lambda: warned(service), "a warning")).lower()
    assert server.taken == []


async def _is(condition: bool) -> bool:
    return condition


def a_certificate(folder: Path) -> Path:
    """A key and a certificate of its own for localhost, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "server.pem"
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path
