"""No secret is in what a service says, whatever goes wrong: in its log (at DEBUG), an answer, a metric, a dead letter.

All services run as processes, and what they were told is refused by the servers that they ask.
"""

import asyncio
import base64
import contextlib
import json
import secrets
import urllib.parse
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jwt
from aiosmtpd.smtp import SMTP, AuthResult

from contracts.flow import SERVICES
from deploy.local.ports import HOST
from shared.http.tokens import issue_token
from tests.migrated import migrate
from tests.postgres import PostgresCluster
from tests.running import Broker, an_order, until
from tests.several import Process


def a_secret(kind: str) -> str:
    """Easy to find, also where only a part of it is left."""
    return f"{kind}-{secrets.token_hex(16)}"


@dataclass
class Told:
    """What the services are told, and what must not come back."""

    jwt: str = field(default_factory=lambda: a_secret("jwt"))
    broker: str = field(default_factory=lambda: a_secret("broker"))
    database: str = field(default_factory=lambda: a_secret("database"))
    smtp: str = field(default_factory=lambda: a_secret("smtp"))
    redis: str = field(default_factory=lambda: a_secret("redis"))

    def environment(self) -> dict[str, str]:
        """The same for all."""
        return {
            "MALOTE_JWT_SECRET": self.jwt,
            "MALOTE_LOG_LEVEL": "DEBUG",
            "MALOTE_LOG_FORMAT": "json",
            "MALOTE_RETRY_LADDER": "100ms,200ms",
            "PYTHONASYNCIODEBUG": "1",
            "GATEWAY_REDIS_URL": f"redis://:{self.redis}@{HOST}:9/0",
            "EMAIL_SMTP_USERNAME": "malote",
            "EMAIL_SMTP_PASSWORD": self.smtp,
            "REPORTS_TOKEN": self.token("olga", "operator"),
        }

    def token(self, subject: str = "ana", role: str = "customer", ttl: int = 3600) -> str:
        return issue_token(self.jwt, subject=subject, role=role, ttl=ttl)

    def forms(self) -> Iterable[str]:
        """Each secret as it is, as a URL has it, and as a login has it; of the token, what makes it one."""
        for secret in (self.jwt, self.broker, self.database, self.smtp, self.redis):
            yield secret.partition("-")[2]
            yield base64.b64encode(secret.encode()).decode().rstrip("=")[:-2]
            yield base64.b64encode(f"\0malote\0{secret}".encode()).decode().rstrip("=")[:-2]
        yield self.environment()["REPORTS_TOKEN"].rpartition(".")[2]


def leaks(told: Iterable[str], texts: dict[str, str]) -> list[str]:
    """Where a secret is, with what stands before it."""
    return [
        f"{name}: …{text[max(0, at - 200) : at]}<SECRET>"
        for name, text in texts.items()
        for form in told
        if (at := urllib.parse.unquote(text).find(form)) >= 0
    ]


def processes(folder: Path, told: Told, own: dict[str, dict[str, str]]) -> dict[str, Process]:
    """Every service, each with its own settings beside those that all are told."""
    return {
        name: Process(
            name,
            told.environment() | {f"{name.upper()}_{key}": value for key, value in own[name].items()},
            folder / f"{name}.log",
        )
        for name in SERVICES
    }


@contextlib.contextmanager
def started(all_: dict[str, Process]) -> Any:
    for process in all_.values():
        process.start()
    try:
        yield
    finally:
        for process in all_.values():
            process.kill()


async def ask(process: Process, path: str, **more: Any) -> str:
    """An answer, with its headers."""
    async with httpx.AsyncClient(base_url=process.url, trust_env=False, timeout=20) as client:
        answer = await client.request(more.pop("method", "GET"), path, **more)
    return f"{answer.status_code} {dict(answer.headers)} {answer.text}"


async def is_listening(process: Process) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return "200" in await ask(process, "/livez")
    return False


async def test_wrong_passwords_of_servers_are_told_without_them(
    broker: Broker, postgres: PostgresCluster, tmp_path: Path
) -> None:
    told = Told()
    amqp = broker.url.replace(urllib.parse.urlsplit(broker.url).password or "", told.broker)
    nowhere = postgres.url("nowhere").replace("malote@", f"malote:{told.database}@")
    assert told.database in nowhere
    all_ = processes(tmp_path, told, {name: {"AMQP_URL": amqp, "DATABASE_URL": nowhere} for name in SERVICES})
    said: dict[str, str] = {}
    with started(all_):
        for name, process in all_.items():
            await until(lambda process=process: is_listening(process), f"{name} to listen", 60)
            ready = await until(lambda process=process: _refused(process), f"{name} to be refused by both", 30)
            said[f"{name} /readyz"] = ready
            said[f"{name} /metrics"] = await ask(process, "/metrics")
        headers = {"Authorization": f"Bearer {told.token('olga', 'operator')}"}
        said["gateway /v1/jobs"] = await ask(all_["gateway"], "/v1/jobs", headers=headers)
        assert said["gateway /v1/jobs"].startswith("503 ")
        # counted before the database is asked who may come
        said["gateway without a token"] = await ask(all_["gateway"], "/v1/jobs", headers={"Authorization": "Bearer x"})
        said["stock /v1/products"] = await ask(all_["stock"], "/v1/products", headers=headers)
        assert said["stock /v1/products"].startswith("503 ")
    said |= {f"{name} log": process.log() for name, process in all_.items()}
    assert all("waiting for the broker" in said[f"{name} log"] for name in SERVICES)
    assert "Redis does not answer" in said["gateway log"]
    assert leaks([*told.forms(), headers["Authorization"].rpartition(".")[2]], said) == []


async def _refused(process: Process) -> str:
    """What readiness says once the broker has said no and the database is not there."""
    text = await ask(process, "/readyz")
    checks = json.loads(text[text.index('{"service"') :])["checks"]
    known = (
        "nowhere" in (checks["database"]["detail"] or "") and "refused" in (checks["broker"]["detail"] or "").lower()
    )
    return text if known else ""


BAD_TOKENS = [
    "sekrit-0123456789abcdef",
    "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbmEifQ.sekrit-0123456789abcdef",
    '"sekrit-0123456789abcdef"',
]


class Refusing:
    """A mail server that knows no login."""

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        def session() -> SMTP:
            no = lambda *_: AuthResult(success=False, handled=False)  # noqa: E731
            options: dict[str, Any] = {"authenticator": no, "auth_required": True, "auth_require_tls": False}
            return SMTP(self, hostname="localhost", loop=asyncio.get_running_loop(), **options)

        listener = await asyncio.get_running_loop().create_server(session, HOST, 0)
        yield listener.sockets[0].getsockname()[1]
        listener.close()


async def test_requests_messages_and_mails_that_go_wrong_show_no_secret(broker: Broker, tmp_path: Path) -> None:
    told, said = Told(), dict[str, str]()
    broker_password = urllib.parse.urlsplit(broker.url).password or ""
    own = {name: {"AMQP_URL": broker.url, "DATABASE_URL": f"sqlite:///{tmp_path}/{name}.db"} for name in SERVICES}
    for name in SERVICES:
        await asyncio.to_thread(migrate, name, own[name]["DATABASE_URL"])
    async with Refusing().listening() as port:
        own["email"] |= {"SMTP_HOST": HOST, "SMTP_PORT": str(port)}
        all_ = processes(tmp_path, told, own)
        all_["gateway"].environment |= {f"GATEWAY_{n.upper()}_URL": p.url for n, p in all_.items() if n != "gateway"}
        with started(all_):
            await asyncio.gather(*(process.ready() for process in all_.values()))
            tokens = [told.token(), told.token("olga", "operator"), told.token(ttl=-60)]
            tokens.append(jwt.encode({"sub": "ana", "role": "king", "exp": 2**33}, told.jwt))
            for number, token in enumerate([*tokens, *BAD_TOKENS]):
                headers = {"Authorization": f"Bearer {token}"}
                for path in ("/v1/jobs", "/v1/orders", "/v1/products", "/v1/reports", "/v1/dead-letters"):
                    said[f"{path} {number}"] = await ask(all_["gateway"], path, headers=headers)
                for method, path in (("POST", "/v1/orders"), ("PUT", "/v1/products/A"), ("POST", "/v1/reports")):
                    body = {"headers": headers, "method": method, "content": b'{"a": ', "params": {"x": "y"}}
                    headers["Content-Type"] = "application/json"
                    said[f"{method} {path} {number}"] = await ask(all_["gateway"], path, **body)
            await broker.publish(an_order())
            await broker.send(b"no json", "orders", "order.placed.v1", message_id="poison")
            await until(lambda: _says(all_["email"], "535"), "the mail server to refuse the login")
            await until(lambda: _says(all_["stock"], "dead_lettered"), "stock to give up the poison")
            operator = {"Authorization": f"Bearer {tokens[1]}"}
            said["letters"] = await until(lambda: _letters(all_["gateway"], operator), "the letter to be collected")
            for name, process in all_.items():
                for path in ("/readyz", "/metrics", "/openapi.json", "/asyncapi.json"):
                    said[f"{name} {path}"] = await ask(process, path)
    said |= {f"{name} log": process.log() for name, process in all_.items()}
    parts = [token.rpartition(".")[2] for token in tokens] + ["sekrit-0123456789abcdef"]
    assert leaks([*told.forms(), *parts, broker_password], said) == []


async def _says(process: Process, what: str) -> bool:
    return what in process.log()


async def _letters(gateway: Process, headers: dict[str, str]) -> str:
    text = await ask(gateway, "/v1/dead-letters", headers=headers)
    return text if "no json" in text or '"lane":"stock"' in text else ""


def test_a_leak_would_be_seen_in_each_form() -> None:
    told = Told()
    login = base64.b64encode(f"\0malote\0{told.smtp}".encode()).decode()
    for text in (f"redis://:{told.redis}@host", urllib.parse.quote(f"a {told.jwt}"), f"AUTH PLAIN {login}"):
        assert leaks(told.forms(), {"log": text, "other": "nothing"}), text
