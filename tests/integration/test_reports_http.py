"""Reports over HTTP: who may ask for what and how often, and what becomes of a report. Mostly without a broker."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from uuid_utils.compat import uuid7

from contracts.base import JobState
from contracts.reports import ReportReady
from services.gateway.store.jobs import Job
from services.reports import periodic
from services.reports.store import reports, retention
from services.reports.store.notifications import Notification
from services.reports.store.reports import Report
from shared.messaging.outbox import outbox
from shared.persistence.clock import first_id, now
from tests.integration.reporting import HOUR, NOBODY, Fleet, a_report, check, fleet, link_of, mail_of
from tests.running import Broker, hurry, until
from tests.servers import ON_SQLITE
from tests.serving import NO_BROKER, Served, serving

ORDERS = {"kind": "orders", "format": "csv"}
DAY = 24 * HOUR
Wish = dict[str, Any]


@pytest.fixture
async def served(tmp_path: Path, database_url: str) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, database_url) as found:
        yield found


@pytest.fixture
async def gateway(database_url: str) -> AsyncIterator[Served]:
    async with serving("gateway", NO_BROKER, database_url, reports_url=NOBODY, running_reports=3) as found:
        yield found


async def said(served: Served) -> list[tuple[str, Any]]:
    """What a service has to say to a broker that is not there: keys and bodies."""
    async with served.service.database.reading() as session:
        rows = (await session.execute(select(outbox.c.key, outbox.c.body).order_by(outbox.c.message_id))).all()
    return [(row.key, json.loads(row.body)) for row in rows]


# -- asking for one ---------------------------------------------------------------------------------------------------


@ON_SQLITE
async def test_a_wish_for_a_report_becomes_a_job_and_a_command(gateway: Served) -> None:
    wish = {**ORDERS, "from": "2026-01-01T00:00:00", "filters": {"status": "CONFIRMED", "customer_id": "bia"}}
    async with gateway.client("olga", "operator") as operator:
        answer = await operator.post("/v1/reports", json=wish)
        job = answer.json()
        assert answer.status_code == 202
        assert job["order_id"] is None
        assert job["links"]["report"] == f"/v1/reports/{job['report_id']}"
        shown = (await operator.get(answer.headers["location"])).json()
        assert (shown["kind"], shown["report_id"], shown["order_id"]) == ("report.create", job["report_id"], None)
        assert shown["links"]["report"] == job["links"]["report"]
    [(key, command)] = await said(gateway)
    assert (key, command["report_id"], command["owner"]) == ("report.create.v1", job["report_id"], "olga")
    assert command["wish"]["from"] == "2026-01-01T00:00:00-03:00"
    assert command["wish"]["filters"] == {"status": "CONFIRMED", "sku": None, "customer_id": "bia"}


async def test_a_customer_has_reports_of_its_own_orders_only(gateway: Served) -> None:
    async with gateway.client("ana") as ana:
        for kind in ("stock-movements", "sales-summary"):
            check(await ana.post("/v1/reports", json={"kind": kind, "format": "csv"}), 403, "operators_only")
        others = {**ORDERS, "filters": {"customer_id": "bia"}}
        check(await ana.post("/v1/reports", json=others), 403, "not_your_orders")
        own = {"kind": "order-lines", "format": "csv", "filters": {"customer_id": "ana"}}
        for wish in (ORDERS, own):
            assert (await ana.post("/v1/reports", json=wish)).status_code == 202
        check(await ana.post("/v1/reports/rebuild"), 403, "operators_only")
    assert {command["wish"]["filters"]["customer_id"] for _, command in await said(gateway)} == {"ana"}
    async with gateway.client("a" * 65) as nobody:
        check(await nobody.post("/v1/reports", json=ORDERS), 403, "no_customer")


@ON_SQLITE
async def test_the_tokens_address_goes_with_the_wish(gateway: Served) -> None:
    async with gateway.client() as ana:
        await ana.post("/v1/reports", json=ORDERS, headers=mail_of("ana@example.com"))
        await ana.post("/v1/reports", json=ORDERS)
    assert [command["email"] for _, command in await said(gateway)] == ["ana@example.com", None]


async def test_mail_about_reports_is_counted_with_that_about_orders_by_the_address_that_it_goes_to(
    served: Fleet, tmp_path: Path
) -> None:
    """A report's mail goes wherever a customer says, so nobody may fill a stranger's mailbox by asking for reports."""
    told = {"reports_url": served.reports.url, "recipient_limit": "2/hour", "running_reports": 1}
    async with (
        serving("gateway", NO_BROKER, f"sqlite:///{tmp_path}/limited.db", **told) as gateway,
        gateway.client("ana") as ana,
        gateway.client("bia") as bia,
        gateway.client("cleo") as cleo,
        gateway.client("ana") as verified,
    ):
        choice, key = "/v1/me/notifications", {"Idempotency-Key": "k"}
        for client, address in ((ana, "carl@example.com"), (bia, "Carl+more@example.com"), (cleo, "me@example.com")):
            assert (await client.put(choice, json={"mail": True, "email": address})).status_code == 200
        for _ in range(3):  # one report, and one mail
            assert (await ana.post("/v1/reports", json=ORDERS, headers=key)).status_code == 202
            check(await ana.post("/v1/reports", json=ORDERS), 429, "too_many_reports")
        customer = {"id": "bia", "name": "Bia", "email": "carl@example.com"}
        order = {"customer": customer, "currency": "BRL", "lines": [{"sku": "A", "quantity": 1}]}
        assert (await bia.post("/v1/orders", json=order)).status_code == 202
        refused = check(await bia.post("/v1/reports", json=ORDERS), 429, "too_many_requests")
        assert "to this address" in refused["detail"]
        assert (await bia.put(choice, json={"mail": False, "email": "carl@example.com"})).status_code == 200
        for client in (bia, cleo):
            assert (await client.post("/v1/reports", json=ORDERS)).status_code == 202
        await end_jobs(gateway)
        verified.headers.update(mail_of("carl@example.com"))
        assert (await verified.post("/v1/reports", json=ORDERS)).status_code == 202, "it is the caller's own"
        reports = [command for _, command in await said(gateway) if "report_id" in command]
    assert [command["email"] for command in reports] == ["carl@example.com", None, "me@example.com", "carl@example.com"]


async def end_jobs(gateway: Served) -> None:
    async with gateway.service.database.transaction() as session:
        for job in (await session.scalars(select(Job))).all():
            job.status, job.ended_at = JobState.SUCCESS, now()


NO_REPORTS: list[tuple[Wish, str]] = [
    ({}, "/kind"),
    ({"kind": "orders"}, "/format"),
    ({"kind": "everything", "format": "csv"}, "/kind"),
    ({**ORDERS, "format": "pdf"}, "/format"),
    ({**ORDERS, "colour": "red"}, "/colour"),
    ({**ORDERS, "timezone": "../etc/passwd"}, "/timezone"),
    ({**ORDERS, "from": "2026-02-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "/to"),
    ({**ORDERS, "filters": {"status": "SENT"}}, "/filters/status"),
    ({"kind": "stock-movements", "format": "csv", "filters": {"customer_id": "ana"}}, "/filters"),
    ({**ORDERS, "format": "jsonl", "options": {"bom": True}}, "/options"),
]


@ON_SQLITE
async def test_a_wish_that_makes_no_sense_is_refused_with_a_pointer(gateway: Served) -> None:
    async with gateway.client("olga", "operator") as operator:
        for wish, pointer in NO_REPORTS:
            answer = await operator.post("/v1/reports", json=wish)
            assert pointer in {e["pointer"] for e in check(answer, 422, "invalid_request")["errors"]}, wish
    assert await said(gateway) == []


async def test_so_many_reports_at_once_and_no_more_also_through_two_gateways(
    gateway: Served, database_url: str
) -> None:
    async with (
        serving("gateway", NO_BROKER, database_url, reports_url=NOBODY, running_reports=3) as second,
        gateway.client() as here,
        second.client() as there,
        gateway.client("bia") as bia,
    ):
        answers = await asyncio.gather(*[client.post("/v1/reports", json=ORDERS) for client in [here, there] * 10])
        assert sorted(answer.status_code for answer in answers) == [202] * 3 + [429] * 17
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert "cancel one" in check(refused, 429, "too_many_reports")["detail"]
        assert int(refused.headers["retry-after"]) > 0
        assert (await bia.post("/v1/reports", json=ORDERS)).status_code == 202  # that is another's


async def test_a_report_that_has_ended_makes_room_for_another(gateway: Served) -> None:
    async with gateway.client() as ana:
        jobs = [(await ana.post("/v1/reports", json=ORDERS)).json()["job_id"] for _ in range(3)]
        check(await ana.post("/v1/reports", json=ORDERS), 429)
        async with gateway.service.database.transaction() as session:
            job = next(row for row in (await session.scalars(select(Job))).all() if str(row.id) == jobs[0])
            job.status, job.ended_at = JobState.FAILURE, now()
        assert (await ana.post("/v1/reports", json=ORDERS)).status_code == 202


async def test_a_repeat_under_the_same_key_is_one_report_and_not_counted(gateway: Served) -> None:
    async with gateway.client() as ana:

        async def ask(key: str) -> httpx.Response:
            return await ana.post("/v1/reports", json=ORDERS, headers={"Idempotency-Key": key})

        answers = await asyncio.gather(*[ask(key) for key in "abc" * 5])
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["report_id"] for answer in answers}) == 3
        assert {answer.status_code for answer in await asyncio.gather(*[ask("d") for _ in range(5)])} == {429}
        again = await ask("a")  # while there is no room
        assert (again.status_code, again.text) == (202, answers[0].text)
        async with gateway.service.database.transaction() as session:
            for job in (await session.scalars(select(Job))).all():
                job.ended_at = now()
        assert (await ask("d")).status_code == 202  # a refusal is not what a key stands for
    assert len(await said(gateway)) == 4


@ON_SQLITE
async def test_the_job_of_a_report_is_cancelled_by_another(gateway: Served) -> None:
    async with gateway.client() as ana, gateway.client("bia") as bia:
        job = (await ana.post("/v1/reports", json=ORDERS)).json()
        check(await bia.post(f"{job['links']['job']}/cancel"), 404)
        wish = (await ana.post(f"{job['links']['job']}/cancel")).json()
        shown = (await ana.get(wish["links"]["job"])).json()
        assert (shown["kind"], shown["report_id"]) == ("report.cancel", job["report_id"])
        check(await ana.post(f"{wish['links']['job']}/cancel"), 409, "not_cancellable")
    assert (await said(gateway))[1] == ("report.cancel.v1", {"report_id": job["report_id"]})


@ON_SQLITE
async def test_an_operator_has_the_read_model_rebuilt(gateway: Served) -> None:
    async with gateway.client("olga", "operator") as operator:
        answer = await operator.post("/v1/reports/rebuild")
        assert (answer.status_code, answer.json()["report_id"]) == (202, None)
    assert await said(gateway) == [("report.rebuild.v1", {})]


async def test_a_client_that_waits_is_told_where_its_report_is(broker: Broker, tmp_path: Path) -> None:
    spy = await broker.spy(("commands", "report.create.v1"))
    async with serving("gateway", broker.url, f"sqlite:///{tmp_path}/gateway.db") as gateway, gateway.client() as ana:
        waiting = asyncio.create_task(ana.post("/v1/reports", json=ORDERS, headers={"Prefer": "wait=20"}))
        [command] = await spy.collect(1)
        known = {"kind": "orders", "format": "csv", "rows": 1, "bytes": 1, "sha256": "0f"}
        ready = ReportReady(report_id=command["report_id"], expires_at="2026-01-01T00:00:00Z", **known)
        await broker.publish(ready, correlation_id=spy.seen[0].correlation_id, app_id="reports")
        answer = await waiting
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/reports/{command['report_id']}"
    assert answer.json()["result"]["sha256"] == "0f"


# -- looking at them --------------------------------------------------------------------------------------------------


async def test_reports_are_listed_newest_first_to_those_who_may_see_them(served: Fleet) -> None:
    mine = [a_report(status=status) for status in ("READY", "RUNNING", "READY")]
    others = a_report(owner="bia")
    await served.knows(*mine, others)
    gateway = served.gateway

    async def ids(client: httpx.AsyncClient, **params: Any) -> list[str]:
        return [report["id"] for report in (await client.get("/v1/reports", params=params)).json()["data"]]

    async with gateway.client() as ana, gateway.client("olga", "operator") as operator:
        expected = [str(report.id) for report in mine[::-1]]
        assert await ids(ana) == expected
        assert await ids(ana, status="READY") == [expected[0], expected[2]]
        assert await ids(ana, limit=1, starting_after=expected[0]) == [expected[1]]
        assert await ids(operator) == [str(others.id), *expected]
        check(await ana.get("/v1/reports", params={"status": "DONE"}), 422)


@ON_SQLITE
async def test_a_report_that_is_ready_says_where_it_can_be_had(served: Fleet) -> None:
    report = await served.holds(b"1,2\r\n")
    running = a_report(status="RUNNING", expires_at=None, ended_at=None, rows=None, bytes=None, sha256=None)
    await served.knows(running)
    async with served.gateway.client() as ana:
        view = (await ana.get(f"/v1/reports/{report.id}")).json()
        assert (view["status"], view["bytes"], view["sha256"]) == ("READY", 5, report.sha256)
        assert view["download_url"] == f"https://malote.example/v1/reports/{report.id}/download"
        assert view["link"]["url"] == f"https://malote.example{link_of(report)}"
        assert view["wish"]["timezone"] == "America/Sao_Paulo"
        view = (await ana.get(f"/v1/reports/{running.id}")).json()
        assert (view["status"], view["download_url"], view["link"]) == ("RUNNING", None, None)


@ON_SQLITE
async def test_anothers_report_is_not_found_whatever_is_asked_of_it(served: Fleet) -> None:
    report = await served.holds(b"secret")
    async with served.gateway.client("bia") as bia:
        for method, rest in (
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/link"),
            ("DELETE", "/link"),
            ("GET", "/download"),
        ):
            for path in (f"/v1/reports/{report.id}{rest}", f"/v1/reports/{uuid7()}{rest}"):
                check(await bia.request(method, path), 404, "report_not_found")
    assert (await served.row(report)).link_key == report.link_key


# -- and getting rid of them ------------------------------------------------------------------------------------------


async def test_a_report_is_removed_before_its_time_and_once(served: Fleet) -> None:
    report = await served.holds(b"x")
    running = a_report(status="RUNNING")
    await served.knows(running)
    async with served.gateway.client() as ana:
        for _ in range(2):
            assert (await ana.delete(f"/v1/reports/{report.id}")).status_code == 204
        check(await ana.get(f"/v1/reports/{report.id}/download"), 410, "report_expired")
        check(await ana.get(link_of(report)), 410, "report_expired")
        assert (await ana.get(f"/v1/reports/{report.id}")).json()["status"] == "EXPIRED"
        check(await ana.delete(f"/v1/reports/{running.id}"), 409, "report_running")
    removal = {"report_id": str(report.id), "result": True}
    assert await said(served.reports) == [("report.remove_files.v1", removal)]


async def test_what_was_kept_for_its_time_is_removed_and_nothing_else(
    served: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "EXPIRED_AT_ONCE", 2)
    over = [a_report(expires_at=now() - 1) for _ in range(3)]
    kept = [a_report(), a_report(status="RUNNING", expires_at=None), a_report(status="FAILED", expires_at=now() - 1)]
    await served.knows(*over, *kept)
    assert [await periodic.expire(served.reports.service.outbox) for _ in range(3)] == [2, 1, 0]
    assert {(await served.row(report)).status for report in over} == {"EXPIRED"}
    assert [(await served.row(report)).status for report in kept] == ["READY", "RUNNING", "FAILED"]
    removed = {body["report_id"] for key, body in await said(served.reports) if body["result"]}
    assert removed == {str(report.id) for report in over}


async def test_what_ended_a_month_ago_is_forgotten_in_steps(served: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.persistence.retention.DELETED_AT_ONCE", 2)

    def made(days: int, **fields: Any) -> Report:
        at = now() - days * DAY
        return a_report(id=first_id(at + len(fields)), created_at=at, ended_at=at, **fields)

    old = [made(40 + n, status="EXPIRED", expires_at=now() - 31 * DAY) for n in range(3)]
    old += [made(31, status="FAILED", expires_at=None)]
    young = [
        made(40, status="EXPIRED", expires_at=now() - 29 * DAY, rows=None),
        made(90, status="READY", expires_at=now() - 60 * DAY),  # its file is still there
        made(29, status="CANCELLED", expires_at=None),
    ]
    told = [Notification(id=first_id(now() - days * DAY), reader="ana", content={}, created_at=1) for days in (36, 38)]
    await served.knows(*old, *young, *told)
    await retention.forget(served.reports.service.database, keep_days=7)
    async with served.reports.service.database.reading() as session:
        assert {row.id for row in (await session.scalars(select(Report))).all()} == {row.id for row in young}
        assert [row.id for row in (await session.scalars(select(Notification))).all()] == [told[0].id]


@ON_SQLITE
async def test_the_service_tidies_up_by_itself(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch, periodic.expire_and_forget, 0.05)
    async with fleet(tmp_path, database_url) as served:
        report = await served.holds(expires_at=now() - 1)

        async def is_expired() -> bool:
            return (await served.row(report)).status == "EXPIRED"

        await until(is_expired, "the report to expire")


# -- how to be told ---------------------------------------------------------------------------------------------------


async def test_a_choice_is_kept_and_mail_needs_an_address(served: Fleet) -> None:
    path = "/v1/me/notifications"
    default = {"mail": False, "in_app": True, "email": None, "locale": "pt-BR"}
    async with served.gateway.client() as ana, served.gateway.client("bia") as bia:
        assert (await ana.get(path)).json() == default
        with_address = await ana.get(path, headers=mail_of("ana@example.com"))
        assert with_address.json() == default | {"mail": True}
        check(await ana.put(path, json={"mail": True}), 422, "no_address")
        assert (await ana.put(path, json={"mail": True}, headers=mail_of("ana@example.com"))).status_code == 200
        check(await ana.put(path, json={"mail": True, "email": "no address"}), 422, "invalid_request")
        for choice in (
            {"mail": True, "in_app": False, "email": "ana@example.com", "locale": "en"},
            {"mail": False, "in_app": True, "email": None, "locale": "pt-BR"},
        ):
            assert (await ana.put(path, json=choice)).json() == choice
            assert (await ana.get(path)).json() == choice
        assert (await bia.get(path)).json() == default


@ON_SQLITE
async def test_without_reports_what_it_answers_is_a_503_and_wishes_are_taken(gateway: Served) -> None:
    async with gateway.client() as ana:
        for path in ("", f"/{uuid7()}", f"/{uuid7()}/download"):
            check(await ana.get(f"/v1/reports{path}"), 503, "upstream_unavailable")
        check(await ana.get("/v1/notifications/events"), 503, "upstream_unavailable")
        assert (await ana.post("/v1/reports", json=ORDERS)).status_code == 202
