"""What Prometheus is told, of services at work on a real broker."""

import asyncio
import dataclasses
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from prometheus_client import REGISTRY

from contracts.jobs import JobRetrying
from contracts.orders import OrderCancelled, OrderConfirmed, OrderPlaced
from services.gateway import periodic
from services.gateway.store import unfinished
from shared.messaging import membership, relay
from shared.messaging.handler import on
from shared.messaging.outbox import Outbox
from shared.messaging.publisher import Outgoing
from shared.messaging.relay import Relay
from shared.messaging.unit import UnitOfWork
from shared.persistence.database import Database, Outage
from tests.integration.reserving import on_order_placed
from tests.running import Broker, an_order, beating, is_ready, module_of, reserved, running, until
from tests.serving import NO_BROKER, serving

STOCK = {"service": "stock", "lane": "stock"}
PLACED = {**STOCK, "message": "order.placed.v1"}
ANA = {"id": "ana", "name": "Ana Souza", "email": "ana@example.com", "locale": "pt-BR"}
ORDER = {"customer": ANA, "currency": "BRL", "lines": [{"sku": "COFFEE-1KG", "quantity": 2}]}


def value(name: str, **labels: str) -> float:
    """What a sample says now; 0 if there is none."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


def since(name: str, **labels: str) -> Callable[[], float]:
    """By how much a sample has grown since this call: one registry serves the whole test process."""
    before = value(name, **labels)
    return lambda: value(name, **labels) - before


async def at_least(grown: Callable[[], float], number: float) -> None:
    async def look() -> bool:
        return grown() >= number

    await until(look, f"a growth of {number}")


async def test_messages_are_counted_by_their_outcome(broker: Broker, tmp_path: Path) -> None:
    outcomes = {
        outcome: since("malote_messages_total", **PLACED, outcome=outcome)
        for outcome in ("done", "duplicate", "retried", "dead_lettered")
    }
    unreadable = since("malote_messages_total", **STOCK, message="unreadable", outcome="dead_lettered")
    attempts, ended = since("malote_attempts_sum", **STOCK), since("malote_attempts_count", **STOCK)
    async with running("stock", broker.url, f"sqlite:///{tmp_path}/s.db", module_of(on_order_placed)):
        await broker.publish(an_order(), id_="twice")
        await at_least(outcomes["done"], 1)
        await broker.publish(an_order(), id_="twice")
        await broker.publish(an_order([("FAIL", 1)]))
        await broker.publish(an_order([("POISON", 1)]))
        await broker.send(b"{", "orders", "order.placed.v1", message_id="nonsense")
        await at_least(outcomes["dead_lettered"], 2)
        await at_least(outcomes["duplicate"], 1)
        await at_least(unreadable, 1)
    assert {name: grown() for name, grown in outcomes.items()} == {
        "done": 1, "duplicate": 1, "retried": 2, "dead_lettered": 2,
    }  # fmt: skip
    assert (unreadable(), ended(), attempts()) == (1, 3, 1 + 3 + 1)  # done, failed three times, poison


async def test_waiting_counts_from_being_sent_and_clocks_may_differ(broker: Broker, tmp_path: Path) -> None:
    waited, number = since("malote_waiting_seconds_sum", **PLACED), since("malote_waiting_seconds_count", **PLACED)
    handled = since("malote_handling_seconds_count", **PLACED)
    batches, taken = since("malote_batch_seconds_count", **STOCK), since("malote_batch_size_sum", **STOCK)
    async with running("stock", broker.url, f"sqlite:///{tmp_path}/s.db", module_of(on_order_placed)):
        for seconds in (-30, 3600):  # an hour ahead of us
            sent_at = datetime.now(UTC) + timedelta(seconds=seconds)
            await broker.publish(an_order(), headers={"cloudEvents_time": sent_at.isoformat()})
        await at_least(number, 2)
        await at_least(taken, 2)
    assert 30 <= waited() < 40
    assert (number(), handled(), taken()) == (2, 2, 2)
    assert 1 <= batches() <= 2


async def test_a_lane_says_what_it_has_in_hand_how_old_that_is_and_whether_it_is_paused(
    broker: Broker, tmp_path: Path
) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    @on(OrderPlaced)
    async def slow(order: OrderPlaced, unit: UnitOfWork) -> None:
        begun.set()
        await may_end.wait()

    done = since("malote_messages_total", **PLACED, outcome="done")
    async with running("stock", broker.url, f"sqlite:///{tmp_path}/s.db", module_of(slow), batch_limit=1) as stock:
        assert value("malote_lane_in_hand", **STOCK) == value("malote_lane_oldest_seconds", **STOCK) == 0
        sent_at = datetime.now(UTC) - timedelta(minutes=5)
        await broker.publish(an_order())
        await begun.wait()
        await broker.publish(an_order(), headers={"cloudEvents_time": sent_at.isoformat()})
        await at_least(lambda: value("malote_lane_in_hand", **STOCK), 2)
        oldest = value("malote_lane_oldest_seconds", **STOCK)
        assert 300 <= oldest <= (datetime.now(UTC) - sent_at).total_seconds()
        stock.lanes[0].pause.why = "for the test"
        assert value("malote_lane_paused", **STOCK) == 1
        may_end.set()
        await at_least(done, 2)
        await until(lambda: is_ready(stock), "the lane to go on")
        assert value("malote_lane_paused", **STOCK) == value("malote_lane_oldest_seconds", **STOCK) == 0


async def test_a_part_that_ends_by_itself_shows_in_readiness_and_metrics(broker: Broker, tmp_path: Path) -> None:
    async def dies() -> None:
        raise RuntimeError("a bug")

    async with running("stock", broker.url, f"sqlite:///{tmp_path}/s.db", module_of(on_order_placed)) as stock:
        assert value("malote_task_ended", service="stock", task="publish") == 0
        assert value("malote_task_ended", service="stock", task="tidy") == 0
        stock.watch("mend", dies())
        await at_least(lambda: value("malote_task_ended", service="stock", task="mend"), 1)
        assert (await stock.checks())["mend"] == "has ended: this process has to be started again"
        assert not await is_ready(stock)


async def test_the_outbox_says_what_the_whole_table_holds(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what another process left behind, and is in nobody's hand."""
    monkeypatch.setattr(membership, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(relay, "MEASURE_EVERY", 1)
    database, wire = Database(database_url), _Wire()
    await database.create_all()
    dead, living = (Relay(Outbox("stock", database), database, wire) for _ in range(2))  # type: ignore[arg-type]
    began = time.monotonic()
    async with dead.outbox.unit() as unit:
        unit.send(*(reserved(an_order().order_id) for _ in range(3)))
        unit.outgoing[0] = _older(unit.outgoing[0], seconds=90)
    tasks = [asyncio.create_task(beating(living)), asyncio.create_task(living.publish())]
    await at_least(lambda: value("malote_outbox_oldest_seconds", service="stock"), 90)  # one that nothing else leaves
    assert value("malote_outbox_oldest_seconds", service="stock") <= 91 + time.monotonic() - began
    assert value("malote_outbox_messages", service="stock") == 3
    assert value("malote_outbox_in_hand", service="stock") == 0

    async def empty() -> bool:
        return value("malote_outbox_messages", service="stock") == 0

    await dead.close()  # its rows are adopted now
    wire.down = False
    await until(empty, "the outbox to be empty")
    assert value("malote_outbox_oldest_seconds", service="stock") == 0
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await database.dispose()


class _Wire:
    down = True

    async def publish(self, messages: list[Outgoing]) -> list[bool]:
        await asyncio.sleep(0)
        if self.down:
            raise Outage("no broker")
        return [True] * len(messages)


def _older(message: Outgoing, seconds: float) -> Outgoing:
    sent_at = message.envelope.sent_at - timedelta(seconds=seconds)
    return dataclasses.replace(message, envelope=dataclasses.replace(message.envelope, sent_at=sent_at))


def count_often(monkeypatch: pytest.MonkeyPatch) -> None:
    often = dataclasses.replace(periodic.measure.periodic, seconds=0.05)  # type: ignore[attr-defined]
    monkeypatch.setattr(periodic.measure, "periodic", often)
    monkeypatch.setattr(unfinished, "MEASURE_SHARE", 1.0)


async def test_jobs_that_nobody_begins_are_named_with_the_oldest_and_what_to_do_until_they_go_on(
    broker: Broker, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_often(monkeypatch)
    async with serving("gateway", broker.url, database_url) as gateway, gateway.client("ana") as ana:
        first, second = [(await ana.post("/v1/orders", json=ORDER)).json()["job_id"] for _ in range(2)]

        async def said() -> str:
            warnings: dict[str, str] = (await ana.get("/readyz")).json()["warnings"]
            return warnings.get("jobs", "")

        await at_least(lambda: value("malote_jobs", kind="order.place", state="PENDING"), 2)
        assert await said() == "", "they are young"
        monkeypatch.setattr(unfinished, "STUCK_MINUTES", -1)  # younger than now by any clock
        stuck = await until(said, "the jobs to be named")
        assert stuck.startswith("2 PENDING for more than ")
        assert f", the oldest since {datetime.now(UTC):%Y-%m-%d} " in stuck
        assert f"`malote logs {first}`" in stuck
        await broker.publish(JobRetrying(attempt=1, retry_in=1), correlation_id=first)

        async def only_the_second() -> bool:
            return f"`malote logs {second}`" in await said()

        await until(only_the_second, "the one that goes on to be left out")
        assert (await ana.get("/readyz")).status_code == 200


async def test_jobs_are_counted_from_their_beginning_to_their_end(
    broker: Broker, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_often(monkeypatch)
    started = since("malote_jobs_started_total", kind="order.place")
    ends = {
        state: since("malote_jobs_ended_total", kind="order.place", state=state) for state in ("SUCCESS", "CANCELLED")
    }
    took = since("malote_job_seconds_count", kind="order.place")
    async with serving("gateway", broker.url, database_url) as gateway, gateway.client("ana") as ana:
        began = time.monotonic()
        jobs = [(await ana.post("/v1/orders", json=ORDER)).json() for _ in range(2)]
        await at_least(lambda: value("malote_jobs", kind="order.place", state="PENDING"), 2)
        assert value("malote_jobs_oldest_seconds", kind="order.place") <= 1 + time.monotonic() - began
        orders = [an_order(order_id=job["order_id"]) for job in jobs]
        confirmed = OrderConfirmed(**orders[0].model_dump(), confirmed_at="2026-01-01T00:00:01Z")
        cancelled = OrderCancelled(
            **orders[1].model_dump(), cancelled_at="2026-01-01T00:00:01Z", order_job_id=jobs[1]["job_id"]
        )
        await broker.publish(JobRetrying(attempt=1, retry_in=1), correlation_id=jobs[0]["job_id"])  # no end
        for _ in range(2):  # said twice, it ended once
            await broker.publish(confirmed, correlation_id=jobs[0]["job_id"])
            await broker.publish(cancelled, correlation_id="a job of somebody's own")
        for grown in ends.values():
            await at_least(grown, 1)

        async def none_left() -> bool:
            return value("malote_jobs", kind="order.place", state="PENDING") == 0

        await until(none_left, "no job to be without an end")
    assert (started(), took()) == (2, 2)
    assert {state: grown() for state, grown in ends.items()} == {"SUCCESS": 1, "CANCELLED": 1}


async def test_requests_are_measured_by_route_whatever_their_path_and_method_are(tmp_path: Path) -> None:
    async with (
        serving("gateway", NO_BROKER, f"sqlite:///{tmp_path}/g.db") as gateway,
        gateway.client("ana") as ana,
    ):
        for path in ("/v1/jobs/0190a2b4-0000-7000-8000-000000000001", "/v1/jobs/x", "/nowhere/1", "/nowhere/2"):
            await ana.get(path)
        await ana.request("PROPFIND", "/v1/jobs/x")
        async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as scraper:
            text = (await scraper.get("/metrics")).text
    counted = [line for line in text.splitlines() if line.startswith("malote_http_seconds_count{")]
    assert any('method="GET",route="/v1/jobs/{job_id}",service="gateway",status="404"' in line for line in counted)
    assert any('method="GET",route="unknown",service="gateway",status="404"' in line for line in counted)
    assert any('method="other"' in line for line in counted)
    assert not any("nowhere" in line or "PROPFIND" in line or "0190a2b4" in line for line in counted)


async def test_time_that_a_client_asked_to_wait_is_not_the_services(broker: Broker, tmp_path: Path) -> None:
    waits = {"service": "gateway", "method": "POST", "route": "/v1/jobs/{job_id}/wait", "status": "202"}
    seconds, number = since("malote_http_seconds_sum", **waits), since("malote_http_seconds_count", **waits)
    async with serving("gateway", broker.url, f"sqlite:///{tmp_path}/g.db") as gateway, gateway.client("ana") as ana:
        job = (await ana.post("/v1/orders", json=ORDER)).json()
        began = time.monotonic()
        assert (await ana.post(f"/v1/jobs/{job['job_id']}/wait?timeout=1")).status_code == 202
        took = time.monotonic() - began
    assert took >= 1
    assert number() == 1
    assert seconds() < took - 0.9
