"""The read model: filled by what orders and stock say, emptied, and filled again from what they keep."""

import asyncio
import contextlib
import os
import secrets
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import select
from uuid_utils.compat import uuid7

from contracts.base import Money
from contracts.orders import CancelOrder, Customer, OrderLine, PlaceOrder
from contracts.reports import FetchPage, RebuildReadModel
from services.orders.store import ListPrice
from services.orders.store import Order as Placed
from services.reports.adapters.exporter import Exporter
from services.reports.store.read_model import Line, Movement, Order
from services.stock.store import Adjustment, Product, Reservation, ReservationState
from shared.persistence.database import Database
from shared.service import Service
from tests.integration.reserving import count
from tests.migrated import migrate
from tests.running import LADDER, SECRET, Broker, Spy, running, until
from tests.serving import Served, serving

ROOT = Path(__file__).resolve().parents[2]
IMPATIENT = """
import runpy, sys
from shared.messaging import membership
membership.HEARTBEAT_SECONDS, membership.DEAD_AFTER_SECONDS = 0.1, 1.0
sys.argv[1:] = ["reports"]
runpy.run_module("shared.service", run_name="__main__", alter_sys=True)
"""
REBUILT = (("reports", "report.rebuilt.v1"), ("jobs", "job.failed.v1"))
Rows = dict[str, dict[Any, dict[str, Any]]]


@dataclass
class Shop:
    """Orders, stock and reports at work on one broker."""

    broker: Broker
    orders: Served
    stock: Served
    reports: Service
    placed: int = 0
    cancelled: int = 0

    async def place(self, *lines: tuple[str, int]) -> UUID:
        wish = PlaceOrder(
            order_id=(order_id := uuid7()),
            customer=Customer(id="ana", name='Ana "=1+1"\N{HOT BEVERAGE}', email="ana@example.com"),
            currency="BRL",
            lines=tuple(OrderLine(sku=sku, quantity=pieces) for sku, pieces in lines),
        )
        await self.broker.publish(wish)
        self.placed += 1
        return order_id

    async def trade(self, rounds: int) -> None:
        """Orders of every fate, and pieces that come and go."""
        placed = [await self.place(("A", 1), ("B", 2)) for _ in range(rounds)]
        await self.place(("A", 2_000), ("B", 1))
        await self.place(("UNKNOWN", 1))
        await until(lambda: count(self.orders.service, Placed), "an order")
        for order_id in placed[::3]:
            await self.broker.publish(CancelOrder(order_id=order_id))
            self.cancelled += 1
        async with self.stock.client("otto", "operator") as client:
            for delta in (5, -5):
                adjusted = await client.post("/v1/products/A/adjustments", json={"delta": delta, "reason": "counted"})
                assert adjusted.status_code == 200, adjusted.text

    async def settled(self) -> Rows:
        """The read model once it says what orders and stock keep, and they have nothing more to do."""
        await until(self._is_still, "orders to come to an end")
        await until(self._agrees, "the read model to agree with its owners")
        return await known(self.reports.database)

    async def rebuild(self, spy: Spy, number: int = 1) -> dict[str, Any]:
        await self.broker.publish(RebuildReadModel(), id_=(job := str(uuid7())), correlation_id=job)
        return (await spy.collect(number))[-1]

    async def _is_still(self) -> bool:
        orders = Counter(row.state for row in await _rows(self.orders.service, Placed))
        held = Counter(row.state for row in await _rows(self.stock.service, Reservation))
        is_done = orders.total() == self.placed and not orders["PLACED"] and orders["CANCELLED"] == self.cancelled
        return is_done and not held["RESERVED"] and held["TAKEN"] == orders["CONFIRMED"]

    async def _agrees(self) -> bool:
        orders, products = await _rows(self.orders.service, Placed), await _rows(self.stock.service, Product)
        return await facts(self.reports.database) == (
            {(row.id, row.placed_at, row.confirmed_at, row.rejected_at, row.cancelled_at, row.total) for row in orders},
            {row.sku: (row.on_hand, row.reserved) for row in products},
        )


async def facts(database: Database) -> tuple[set[Any], dict[str, tuple[int, int]]]:
    """What the read model says of orders, and of the levels that its movements add up to."""
    async with database.reading() as session:
        orders = (await session.scalars(select(Order))).all()
        movements = (await session.scalars(select(Movement))).all()
    levels: dict[str, tuple[int, int]] = {}
    for row in movements:
        on_hand, reserved = levels.get(row.sku, (0, 0))
        levels[row.sku] = (on_hand + row.on_hand, reserved + row.reserved)
    return (
        {(row.id, row.placed_at, row.confirmed_at, row.rejected_at, row.cancelled_at, row.total) for row in orders},
        levels,
    )


async def known(database: Database) -> Rows:
    """All rows of the read model by their keys, without what says when it came to be known."""
    found: Rows = {}
    async with database.reading() as session:
        for table, key in ((Order, ("id",)), (Line, ("order_id", "sku")), (Movement, ("id",))):
            rows = [row.model_dump() for row in (await session.scalars(select(table))).all()]
            found[table.__name__] = {
                tuple(row[name] for name in key): {k: v for k, v in row.items() if not k.endswith("revision")}
                for row in rows
            }
    return found


@pytest.fixture
async def shop(
    broker: Broker, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Shop]:
    monkeypatch.setattr("services.reports.adapters.owners.PAGE_ENTRIES", 7)
    async with (
        serving("orders", broker.url, f"sqlite:///{tmp_path}/orders.db") as orders,
        serving("stock", broker.url, f"sqlite:///{tmp_path}/stock.db") as stock,
    ):
        owners: dict[str, Any] = {
            "orders_url": orders.url,
            "stock_url": stock.url,
            "storage_url": str(tmp_path / "files"),
        }
        async with running("reports", broker.url, database_url, **owners) as reports:
            async with stock.client("otto", "operator") as client:
                for sku in "AB":
                    wish = {"name": sku, "price": {"amount": 100, "currency": "BRL"}, "low_threshold": 0}
                    assert (await client.put(f"/v1/products/{sku}", json=wish)).status_code == 200
                    came = {"delta": 1_000, "reason": "came"}
                    assert (await client.post(f"/v1/products/{sku}/adjustments", json=came)).status_code == 200
            await until(lambda: _has_prices(orders.service), "the price list")
            yield Shop(broker, orders, stock, reports)


async def _has_prices(orders: Service) -> bool:
    return await count(orders, ListPrice) == 2


async def test_a_rebuild_gives_the_same_read_model_as_the_events_while_further_ones_come(shop: Shop) -> None:
    await shop.trade(30)
    by_events = await shop.settled()
    assert {row["kind"] for row in by_events["Movement"].values()} == {"reserved", "taken", "released", "adjusted"}
    assert {row["reason"] for row in by_events["Order"].values()} == {None, "unknown_sku", "out_of_stock"}
    spy = await shop.broker.spy(*REBUILT)
    rebuilding = asyncio.create_task(shop.rebuild(spy))
    await shop.trade(10)
    assert (await rebuilding)["entries"] >= 32 + 30 + 4
    after = await shop.settled()
    for table, rows in by_events.items():
        assert {key: after[table][key] for key in rows} == rows
    await shop.rebuild(spy, 2)
    assert await known(shop.reports.database) == after


async def test_two_rebuilds_at_once_end_in_a_right_read_model(shop: Shop) -> None:
    await shop.trade(15)
    by_events = await shop.settled()
    spy = await shop.broker.spy(*REBUILT)
    for job in (str(uuid7()), str(uuid7())):
        await shop.broker.publish(RebuildReadModel(), id_=job, correlation_id=job)
    await spy.collect(2)
    assert {message.routing_key for message in spy.seen} == {"report.rebuilt.v1"}
    assert await known(shop.reports.database) == by_events


async def test_pages_that_come_twice_are_fetched_and_kept_once(shop: Shop) -> None:
    await shop.trade(10)
    by_events = await shop.settled()
    spy = await shop.broker.spy(*REBUILT)
    pages = await shop.broker.spy(("commands", "report.fetch_page.v1"), ("commands", "report.project_page.v1"))
    said = await shop.rebuild(spy)
    sent = len(await pages.collect(1))
    for page in list(pages.seen):
        await shop.broker.send(
            page.body,
            "commands",
            page.routing_key or "",
            message_id=page.message_id,
            correlation_id=page.correlation_id,
        )
    await shop.rebuild(spy, 2)  # in the same lanes, behind the copies
    assert len(await pages.collect(3 * sent)) == 3 * sent
    assert [body["entries"] for body in await spy.collect(2)] == [said["entries"]] * 2
    assert await known(shop.reports.database) == by_events


async def test_an_owner_that_is_down_is_asked_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    await shop.trade(3)
    by_events = await shop.settled()
    owners = shop.reports.resources.get(Exporter).owners
    ask, asked = owners._client.get, 0

    async def unwilling(*arguments: Any, **more: Any) -> httpx.Response:
        nonlocal asked
        asked += 1
        if asked % 2:
            raise httpx.ConnectError("connection refused")
        return await ask(*arguments, **more)

    monkeypatch.setattr(owners._client, "get", unwilling)
    spy = await shop.broker.spy(*REBUILT)
    await shop.rebuild(spy)
    assert spy.seen[0].routing_key == "report.rebuilt.v1"
    assert asked > 3
    assert await known(shop.reports.database) == by_events


async def test_without_a_token_a_rebuild_fails_and_says_which_setting_is_missing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop.reports.settings, "jwt_secret", None)
    spy = await shop.broker.spy(*REBUILT)
    failed = await shop.rebuild(spy)
    assert spy.seen[0].routing_key == "job.failed.v1"
    assert "REPORTS_TOKEN" in failed["detail"]


async def test_a_rebuild_that_was_killed_goes_on_where_it_was(broker: Broker, tmp_path: Path) -> None:
    """At a page of chance, with the process's own program and the real size of pages."""
    url = f"sqlite:///{tmp_path}/reports.db"
    await asyncio.to_thread(migrate, "reports", url)
    async with (
        serving("orders", broker.url, f"sqlite:///{tmp_path}/orders.db") as orders,
        serving("stock", broker.url, f"sqlite:///{tmp_path}/stock.db") as stock,
    ):
        await _fill(orders.service, stock.service, 450)
        owners = {"REPORTS_ORDERS_URL": orders.url, "REPORTS_STOCK_URL": stock.url}
        ends = await broker.spy(*REBUILT)
        pages = await broker.spy(("commands", FetchPage.key))
        async with _process(broker.url, url, tmp_path, owners):
            await broker.publish(RebuildReadModel(), id_=(job := str(uuid7())), correlation_id=job)
            await pages.collect(1 + secrets.randbelow(8))
        assert not await ends.collect(0)
        async with _process(broker.url, url, tmp_path, owners):
            assert await ends.collect(1, 60) == [{"entries": 450 + 450 + 1}]
        assert len((await known(Database(url)))["Line"]) == 450
        found, levels = await facts(Database(url))
        assert {row[0] for row in found} == {row.id for row in await _rows(orders.service, Placed)}
        assert levels == {"A": (1_000 - 450, 0)}


async def _fill(orders: Service, stock: Service, number: int) -> None:
    """Confirmed orders with what they took, as the owners keep them."""
    ids = [uuid7() for _ in range(number)]
    one = Money(amount=100, currency="BRL")
    line: dict[str, Any] = {
        "sku": "A",
        "name": "A",
        "quantity": 1,
        "unit_price": one.model_dump(),
        "total": one.model_dump(),
    }
    ana = Customer(id="ana", name="Ana", email="ana@example.com").model_dump()
    order: dict[str, Any] = {
        "state": "CONFIRMED",
        "job_id": "job",
        "customer_id": "ana",
        "customer": ana,
        "currency": "BRL",
    }
    order |= {"lines": [line], "total": 100, "placed_at": 1, "confirmed_at": 2}
    async with orders.database.transaction() as session:
        session.add_all(Placed(id=id_, **order) for id_ in ids)
    held: dict[str, Any] = {"state": ReservationState.TAKEN, "lines": {"A": 1}, "reserved_at": 1, "taken_at": 2}
    async with stock.database.transaction() as session:
        session.add_all(Reservation(order_id=id_, **held) for id_ in ids)
        session.add(Adjustment(id=uuid7(), sku="A", delta=1_000, reason="came", adjusted_by="otto"))


async def _rows(service: Service, table: Any) -> list[Any]:
    async with service.database.reading() as session:
        return list((await session.scalars(select(table))).all())


@contextlib.asynccontextmanager
async def _process(amqp_url: str, database_url: str, folder: Path, owners: dict[str, str]) -> AsyncIterator[None]:
    """The reports service as a process of its own, which is killed at the end."""
    environment = {
        "REPORTS_AMQP_URL": amqp_url,
        "REPORTS_DATABASE_URL": database_url,
        "REPORTS_STORAGE_URL": str(folder / "files"),
        "REPORTS_JWT_SECRET": SECRET,
        "REPORTS_RETRY_LADDER": ",".join(LADDER),
        "REPORTS_PORT": "0",
    }
    command = (sys.executable, "-c", IMPATIENT)
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=os.environ | environment | owners,
        start_new_session=True,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield
        assert process.returncode is None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
