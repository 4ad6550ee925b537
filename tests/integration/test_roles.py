"""One subject in two roles: what it asked for as an operator, it does not see as a customer."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from alembic import command
from sqlalchemy import Column, MetaData, Table, text
from uuid_utils.compat import uuid7

from contracts.reports import CreateReport, Filters, ReportReady, ReportWish
from services.reports import domain
from services.reports.domain import reader
from services.reports.store.choices import Choice
from services.reports.store.notifications import Notification, select_notifications
from services.reports.store.reports import Report, new_report
from shared.config.urls import database_address
from shared.persistence.clock import now
from shared.persistence.database import Database, migrate, migrations_of
from tests.integration import reporting
from tests.integration.reporting import NOBODY, Fleet, a_report, check, link_of
from tests.serving import NO_BROKER, serving

SAM = ("sam", "operator")
ORDER: dict[str, Any] = {
    "customer": {"id": "bia", "name": "Bia", "email": "bia@example.com"},
    "currency": "BRL",
    "lines": [{"sku": "A", "quantity": 1}],
}


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with reporting.fleet(tmp_path) as found:
        yield found


async def test_an_operators_jobs_are_not_those_of_a_customer_of_the_same_name(tmp_path: Path) -> None:
    async with (
        serving("gateway", NO_BROKER, f"sqlite:///{tmp_path}/g.db", orders_url=NOBODY, reports_url=NOBODY) as gateway,
        gateway.client(*SAM) as operator,
        gateway.client("sam") as customer,
    ):
        placed = (await operator.post("/v1/orders", json=ORDER)).json()
        asked = (await operator.post("/v1/reports", json={"kind": "orders", "format": "csv"})).json()
        rebuilt = (await operator.post("/v1/reports/rebuild")).json()
        mine = (await customer.post("/v1/reports", json={"kind": "orders", "format": "csv"})).json()
        assert [job["id"] for job in (await customer.get("/v1/jobs")).json()["data"]] == [mine["job_id"]]
        assert len((await operator.get("/v1/jobs")).json()["data"]) == 4
        for job in (placed, asked, rebuilt):
            path = job["links"]["job"]
            for answer in (
                await customer.get(path),
                await customer.get(f"{path}/events"),
                await customer.post(f"{path}/wait?timeout=0"),
                await customer.post(f"{path}/cancel"),
            ):
                check(answer, 404, "job_not_found")
        cancel, key = f"/v1/orders/{placed['order_id']}/cancel", {"Idempotency-Key": "one"}
        assert (await customer.post(cancel)).status_code == 503, "orders is asked whether it may"
        assert (await operator.post(cancel, headers=key)).status_code == 202
        check(await customer.post(cancel, headers=key), 422, "idempotency_key_reused")


async def test_an_operators_reports_are_not_those_of_a_customer_of_the_same_name(fleet: Fleet) -> None:
    theirs, mine = a_report(owner="sam", role="operator"), a_report(owner="sam")
    await fleet.knows(theirs, mine)
    async with fleet.gateway.client("sam") as customer, fleet.gateway.client(*SAM) as operator:
        seen = (await customer.get("/v1/reports")).json()["data"]
        assert [report["id"] for report in seen] == [str(mine.id)]
        assert (await operator.get(f"/v1/reports/{theirs.id}")).status_code == 200
        path = f"/v1/reports/{theirs.id}"
        for answer in (
            await customer.get(path),
            await customer.get(f"{path}/download"),
            await customer.post(f"{path}/link"),
            await customer.delete(f"{path}/link"),
            await customer.delete(path),
        ):
            check(answer, 404, "report_not_found")
        assert link_of(theirs), "whoever was given the link still has it"


async def test_who_is_told_as_an_operator_is_told_as_nobody_else(fleet: Fleet) -> None:
    content = {"message": ReportReady.key, "report_id": str(uuid7()), "kind": "orders", "format": "csv"}
    told = Notification(id=uuid7(), reader=reader(*SAM), content=content, created_at=now())
    await fleet.knows(told)
    async with fleet.gateway.client("sam") as customer, fleet.gateway.client(*SAM) as operator:
        assert (await customer.get("/v1/notifications")).json() == {"data": [], "has_more": False, "unread": 0}
        check(await customer.post(f"/v1/notifications/{told.id}/read"), 404, "notification_not_found")
        await customer.post("/v1/notifications/read")
        assert (await operator.get("/v1/notifications")).json()["unread"] == 1
        await customer.put("/v1/me/notifications", json={"mail": True, "email": "elsewhere@example.com"})
        assert (await operator.get("/v1/me/notifications")).json()["email"] is None, "or links would go there"


@pytest.mark.parametrize(
    ("said", "filters", "role"),
    [
        ("operator", Filters(customer_id="sam"), "operator"),
        ("customer", Filters(customer_id="sam"), "customer"),
        (None, Filters(customer_id="sam"), "customer"),
        (None, Filters(customer_id="bia"), "operator"),
        (None, Filters(), "operator"),
    ],
)
def test_a_wish_that_names_no_role_is_a_customers_if_it_is_about_itself(said: Any, filters: Filters, role: str) -> None:
    wish = ReportWish(kind="orders", format="csv", filters=filters)
    asked = CreateReport(report_id=uuid7(), owner="sam", role=said, wish=wish)
    report = new_report(asked, 1, 1, "job")
    assert (report.role, domain.role_of(asked)) == (role, role)


# -- what was there before --------------------------------------------------------------------------------------------


def _to(service: str, url: str, revision: str) -> None:
    config, (target, secure) = migrations_of(service), database_address(url)
    config.attributes["url"], config.attributes["options"] = target, secure
    command.upgrade(config, "kernel@head")
    command.upgrade(config, revision)


async def test_reports_from_before_belong_to_the_role_that_their_wish_shows(database_url: str) -> None:
    await asyncio.to_thread(_to, "reports", database_url, "reports_0001")
    known: Any = Report.__table__  # type: ignore[attr-defined]
    before = Table("reports", MetaData(), *(Column(c.name, c.type) for c in known.columns if c.name != "role"))
    ids = {name: uuid7() for name in ("own", "all")}
    async with (database := Database(database_url)).transaction() as session:
        for name, report_id in ids.items():
            wish = {"kind": "orders", "format": "csv", "filters": {"customer_id": "sam" if name == "own" else None}}
            row = a_report(owner="sam", id=report_id, wish=wish).model_dump(exclude={"role"})
            await session.execute(before.insert().values(**row))
            content = {"report_id": str(report_id), "kind": "orders"}
            notice = Notification(id=uuid7(), reader="sam", content=content, created_at=1)
            session.add(notice)
        session.add(Choice(reader="sam", mail=True, in_app=True, email=None, locale="en"))
    await asyncio.to_thread(migrate, "reports", database_url)
    async with database.reading() as session:
        rows = (await session.execute(text("SELECT owner, role FROM reports ORDER BY id"))).all()
        assert [tuple(row) for row in rows] == [("sam", "customer"), ("sam", "operator")]
        for name, role in (("own", "customer"), ("all", "operator")):
            found = (await session.scalars(select_notifications(reader("sam", role)))).all()
            assert [notice.content["report_id"] for notice in found] == [str(ids[name])]
            assert await session.get(Choice, reader("sam", role))
    await database.dispose()


async def test_jobs_from_before_stay_their_customers_but_for_those_of_operators(database_url: str) -> None:
    await asyncio.to_thread(_to, "gateway", database_url, "gateway_0002")
    kinds = ("order.place", "report.create", "reports.rebuild", "dead_letters.purge")
    async with (database := Database(database_url)).transaction() as session:
        for number, kind in enumerate(kinds):
            row = "(:id, :kind, 'sam', 'PENDING', :timeline, 1, 1, 1)"
            columns = "id, kind, owner, status, timeline, revision, created_at, updated_at"
            id_ = UUID(int=number)
            values = {"id": id_.hex if database.is_sqlite else id_, "kind": kind, "timeline": json.dumps([])}
            await session.execute(text(f"INSERT INTO jobs ({columns}) VALUES {row}"), values)
    await asyncio.to_thread(migrate, "gateway", database_url)
    async with database.reading() as session:
        roles = (await session.scalars(text("SELECT role FROM jobs ORDER BY id"))).all()
    assert roles == ["customer", "customer", "operator", "operator"]
    await database.dispose()
