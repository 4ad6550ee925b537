"""The gateway with reports behind it, and reports put there by hand."""

import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from uuid_utils.compat import uuid7

from services.reports import domain
from services.reports.adapters.exporter import Exporter
from services.reports.adapters.storage import Storage
from services.reports.store.notifications import Notification
from services.reports.store.reports import Report, new_link_key
from shared.http.tokens import issue_token
from shared.persistence.clock import now
from tests.running import SECRET
from tests.serving import NO_BROKER, Served, serving

NOBODY = "http://127.0.0.1:9"
PUBLIC = "https://malote.example"
HOUR = 3_600_000


@dataclass(frozen=True)
class Fleet:
    """The gateway, and reports behind it."""

    gateway: Served
    reports: Served

    @property
    def storage(self) -> Storage:
        return self.reports.service.resources.get(Exporter).storage

    async def holds(self, content: bytes = b"order_id\r\n", owner: str = "ana", **fields: Any) -> Report:
        """A report that is ready, with its file in the storage; `fields` make it something else."""
        report = a_report(content, owner, **fields)
        await self.storage.put(domain.result_name(report.id), content)
        await self.knows(report)
        return report

    async def knows(self, *rows: Report | Notification) -> None:
        async with self.reports.service.database.transaction() as session:
            session.add_all(rows)

    async def row(self, report: Report) -> Report:
        async with self.reports.service.database.reading() as session:
            return await session.get_one(Report, report.id)


@contextlib.asynccontextmanager
async def fleet(folder: Path, database_url: str | None = None, amqp_url: str = NO_BROKER) -> AsyncIterator[Fleet]:
    """Both on SQLite, or reports on a database of its own."""
    url = database_url or f"sqlite:///{folder}/reports.db"
    settings = {"storage_url": str(folder / "files"), "public_url": PUBLIC}
    async with (
        serving("reports", amqp_url, url, **settings) as reports,
        serving(
            "gateway",
            amqp_url,
            f"sqlite:///{folder}/gateway.db",
            orders_url=NOBODY,
            stock_url=NOBODY,
            reports_url=reports.url,
            failure_limit="1000/second",
        ) as gateway,
    ):
        yield Fleet(gateway, reports)


def a_report(content: bytes = b"", owner: str = "ana", **fields: Any) -> Report:
    """Ready since an hour ago, for an hour more."""
    format_ = fields.pop("format", "csv")
    known: dict[str, Any] = {
        "id": uuid7(),
        "job_id": str(uuid7()),
        "owner": owner,
        "wish": {"kind": "orders", "format": format_},
        "revision": 1,
        "chunk_rows": 1000,
        "status": "READY",
        "filename": f"orders-2026-11-02-4d5e6f.{format_}",
        "rows": 1,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "link_key": new_link_key(),
        "created_at": now() - HOUR,
        "ended_at": now() - HOUR,
        "expires_at": now() + HOUR,
    }
    return Report(**known | fields)


def a_notification(reader: str = "ana", id_: UUID | None = None) -> Notification:
    content = {"message": "report.ready.v1", "report_id": str(uuid7()), "kind": "orders", "format": "csv", "rows": 3}
    return Notification(id=id_ or uuid7(), reader=reader, content=content, created_at=now())


def link_of(report: Report) -> str:
    """The signed link, as it is asked of a server of ours."""
    return (domain.link(PUBLIC, report) or "").removeprefix(PUBLIC)


def mail_of(address: str) -> dict[str, str]:
    """Ana's token, with an address in it."""
    token = issue_token(SECRET, subject="ana", role="customer", ttl=60, email=address)
    return {"Authorization": f"Bearer {token}"}


@contextlib.asynccontextmanager
async def stranger(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a token."""
    async with httpx.AsyncClient(base_url=served.url, trust_env=False, timeout=40) as client:
        yield client


def check(answer: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """It is a problem, well told."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert code in (None, problem["code"])
    return problem
