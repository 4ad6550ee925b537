"""What support, and the customers themselves, see of the mails."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from uuid_utils.compat import uuid7

from services.email import handlers
from services.email.api import router
from services.email.store import Mail, MailStatus
from shared.http.tokens import issue_token
from shared.service import Service
from tests.migrated import migrate
from tests.running import SECRET, settings_for
from tests.servers import ON_SQLITE


def a_mail(order_id: UUID | None = None, **more: Any) -> Mail:
    about = {"kind": "placed", "recipient": "ana@example.com", "locale": "en", "subject": "We have your order"}
    rest = {"text": "Hello", "html": "<p>Hello</p>", "message_id": "<m@shop.example>", "correlation_id": "job"}
    return Mail(id=uuid7(), order_id=order_id, created_at=1_700_000_000_000, **{**about, **rest, **more})


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    await asyncio.to_thread(migrate, "email", database_url)
    service = Service(settings_for("email", "amqp://nobody@127.0.0.1:1/", database_url), handlers, router)
    yield service
    await service.database.dispose()


def calling(service: Service, role: str | None = "operator") -> httpx.AsyncClient:
    token = issue_token(SECRET, subject="rui", role=role, ttl=60) if role else ""
    headers = {"Authorization": f"Bearer {token}"} if role else {}
    transport = httpx.ASGITransport(service.app)
    return httpx.AsyncClient(transport=transport, base_url="http://email", headers=headers)


async def given(service: Service, *mails: Mail) -> None:
    async with service.database.transaction() as session:
        session.add_all(mails)


async def test_mails_are_listed_newest_first_a_page_at_a_time(service: Service) -> None:
    mails = [a_mail() for _ in range(5)]
    newest = [str(mail.id) for mail in reversed(mails)]
    await given(service, *mails)
    async with calling(service) as client:
        first = (await client.get("/v1/mails", params={"limit": 3})).json()
        second = (await client.get("/v1/mails", params={"limit": 3, "starting_after": newest[2]})).json()
    assert [mail["id"] for mail in first["data"] + second["data"]] == newest
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert "html" not in first["data"][0]


async def test_mails_are_found_by_their_order(service: Service) -> None:
    order_id = uuid7()
    await given(service, a_mail(order_id), a_mail(uuid7()), a_mail())
    async with calling(service) as client:
        found = (await client.get("/v1/mails", params={"order_id": str(order_id)})).json()
    assert [mail["order_id"] for mail in found["data"]] == [str(order_id)]


async def test_a_mail_is_shown_with_its_text_and_what_the_server_said(service: Service) -> None:
    mail = a_mail(status=MailStatus.SENT, smtp_answer="250 OK", sent_at=1_700_000_001_500)
    await given(service, mail)
    async with calling(service) as client:
        shown = (await client.get(f"/v1/mails/{mail.id}")).json()
    assert (shown["status"], shown["smtp_answer"], shown["text"]) == ("SENT", "250 OK", "Hello")
    assert shown["created_at"] == "2023-11-14T22:13:20Z"
    assert shown["sent_at"] == "2023-11-14T22:13:21.500000Z"


@ON_SQLITE
async def test_a_mail_that_does_not_exist_is_not_found(service: Service) -> None:
    async with calling(service) as client:
        answer = await client.get("/v1/mails/01985b7e-6f4a-7c3e-9d1f-0a2b3c4d5e6f")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/v1/mails", "/v1/mails/01985b7e-6f4a-7c3e-9d1f-0a2b3c4d5e6f"])
@ON_SQLITE
async def test_nobody_reads_mails_without_a_token(service: Service, path: str) -> None:
    async with calling(service, None) as client:
        assert (await client.get(path)).status_code == 401


async def test_a_customer_reads_what_is_about_its_own_orders_only(service: Service) -> None:
    own, theirs, to_operators = a_mail(owner="rui"), a_mail(owner="ana"), a_mail()
    await given(service, own, theirs, to_operators)
    async with calling(service, "customer") as client:
        listed = (await client.get("/v1/mails")).json()["data"]
        assert [mail["id"] for mail in listed] == [str(own.id)]
        shown = [(await client.get(f"/v1/mails/{mail.id}")).status_code for mail in (own, theirs, to_operators)]
        assert shown == [200, 404, 404]
    async with calling(service) as operator:
        assert len((await operator.get("/v1/mails")).json()["data"]) == 3


async def test_mails_are_found_by_their_status(service: Service) -> None:
    failed = a_mail(status=MailStatus.FAILED)
    await given(service, failed, a_mail())
    async with calling(service) as client:
        found = (await client.get("/v1/mails", params={"status": "FAILED"})).json()
    assert [mail["id"] for mail in found["data"]] == [str(failed.id)]


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "starting_after=x", "order_id=1", "limit=-1", "status=LOST"])
@ON_SQLITE
async def test_a_wrong_query_is_refused(service: Service, query: str) -> None:
    async with calling(service) as client:
        answer = await client.get(f"/v1/mails?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
