"""Traces: one order is one trace, from the request to the mail; a collector that is gone costs no order."""

import asyncio
import contextlib
import os
import secrets
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from contracts.orders import OrderPlaced
from contracts.reports import FetchPage
from deploy.local.ports import free_port
from services.orders.store import ListPrice
from services.stock.store import Product
from shared.messaging.handler import on
from tests.collecting import Collector, Taken, collecting
from tests.exporting import exporting
from tests.integration.test_email_outgoing import Server
from tests.postgres import PostgresCluster
from tests.running import SECRET, Broker, an_order, module_of, running, until
from tests.servers import Certificates
from tests.serving import Served, serving

ROOT = Path(__file__).resolve().parents[2]
ORDER = {
    "customer": {"id": "ana", "name": "Ana Souza", "email": "ana@example.com", "locale": "pt-BR"},
    "currency": "BRL",
    "lines": [{"sku": "A", "quantity": 2}],
}
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with collecting() as found:
        yield found


@contextlib.asynccontextmanager
async def shop(
    broker: Broker, folder: Path, postgres: PostgresCluster, **told: Any
) -> AsyncIterator[tuple[Served, Server]]:
    """Gateway, orders, stock and email with something to sell, on both databases; and where mails end."""
    name = f"trace{os.getpid()}{folder.name[-8:]}".lower().replace("-", "_")
    urls = {service: f"sqlite:///{folder / service}.db" for service in ("gateway", "stock")}
    urls |= {service: postgres.create_database(f"{name}_{service}") for service in ("orders", "email")}
    smtp = Server()
    async with contextlib.AsyncExitStack() as stack:
        port = await stack.enter_async_context(smtp.listening())
        told_email = {**told, "smtp_port": port, "sender": "Malote <no-reply@shop.example>"}
        own = dict.fromkeys(urls, told) | {"email": told_email}
        up = {
            service: await stack.enter_async_context(serving(service, broker.url, urls[service], **own[service]))
            for service in ("orders", "stock", "email")
        }
        async with up["orders"].service.database.transaction() as session:
            session.add(ListPrice(sku="A", name="A", amount=100, currency="BRL", revision=1))
        async with up["stock"].service.database.transaction() as session:
            session.add(Product(sku="A", name="A", price=100, currency="BRL", low_threshold=0, on_hand=10))
        addresses = {"orders_url": up["orders"].url, "stock_url": up["stock"].url}
        gateway = serving("gateway", broker.url, urls["gateway"], **told, **addresses)
        yield await stack.enter_async_context(gateway), smtp


async def mails(smtp: Server, number: int) -> bool:
    return len(smtp.taken) >= number


async def test_one_order_is_one_trace_from_the_request_to_the_mail(
    broker: Broker, collector: Collector, tmp_path: Path, postgres: PostgresCluster
) -> None:
    async with shop(broker, tmp_path, postgres, otlp_endpoint=collector.url) as (gateway, smtp):
        async with gateway.client() as ana:
            answer = await ana.post("/v1/orders", json=ORDER, headers={"Prefer": "wait=20"})
            assert answer.status_code == 201, answer.text
        await until(lambda: mails(smtp, 2), "both mails")

    (first,) = collector.named("POST /v1/orders")
    assert first.kind == "SERVER"
    assert first.parent_id == ""
    assert collector.traces() == {first.trace_id}
    ids = {span.span_id for span in collector.spans}
    assert [span for span in collector.spans if span.parent_id not in ids] == [first], "every other has its parent"
    assert {span.service for span in collector.spans} == {"gateway", "orders", "stock", "email"}
    assert not [span.name for span in collector.spans if span.has_failed]
    for kind, name, number in (
        ("PRODUCER", "create commands:order.place.v1", 1),
        ("INTERNAL", "write jobs", 1),
        ("CLIENT", "send commands:order.place.v1", 1),
        ("CONSUMER", "process orders", 2),  # the command, and stock's answer
        ("PRODUCER", "create orders:order.placed.v1", 1),
        ("CONSUMER", "process stock", 2),  # placed and confirmed
        ("CONSUMER", "process gateway", 1),
        ("CONSUMER", "process email", 2),
        ("CONSUMER", "process email.outgoing", 2),
        ("CLIENT", "smtp send", 2),
    ):
        found = collector.named(name)
        assert [span.kind for span in found] == [kind] * number, name
    assert lineage(collector, collector.named("smtp send")[0])[-3:] == [
        "process orders",
        "create commands:order.place.v1",
        "POST /v1/orders",
    ]
    for service, system in (
        ("gateway", "sqlite"),
        ("orders", "postgresql"),
        ("stock", "sqlite"),
        ("email", "postgresql"),
    ):
        told = {
            span.attributes["db.operation.name"]
            for span in collector.spans
            if span.service == service and span.attributes.get("db.system.name") == system
        }
        assert {"INSERT", "COMMIT"} <= told, service
    sent = b"".join(collector.bodies)
    for private in (b"ana@example.com", b"Souza", b"Bearer"):
        assert private not in sent


def lineage(collector: Collector, span: Taken) -> list[str]:
    """The names from a span up to the trace's first."""
    by_id = {known.span_id: known for known in collector.spans}
    names = []
    while span.parent_id in by_id:
        span = by_id[span.parent_id]
        names.append(span.name)
    return names


async def test_a_question_is_passed_on_with_its_trace(broker: Broker, collector: Collector, tmp_path: Path) -> None:
    told: dict[str, Any] = {"otlp_endpoint": collector.url}
    async with contextlib.AsyncExitStack() as stack:
        orders = await stack.enter_async_context(serving("orders", broker.url, f"sqlite:///{tmp_path}/o.db", **told))
        told |= {"orders_url": orders.url}
        gateway = await stack.enter_async_context(serving("gateway", broker.url, f"sqlite:///{tmp_path}/g.db", **told))
        ana = await stack.enter_async_context(gateway.client())
        answer = await ana.get(f"/v1/orders/{uuid7()}", headers={"traceparent": f"{PARENT}-01"})
        assert answer.status_code == 404
    asked, answered = sorted(collector.named("GET /v1/orders/{order_id}"), key=lambda span: span.service)
    assert (asked.service, asked.parent_id) == ("gateway", PARENT[36:])
    assert (answered.service, lineage(collector, answered)) == ("orders", ["GET", "GET /v1/orders/{order_id}"])
    (looked,) = collector.named("SELECT orders")
    assert looked.parent_id == answered.span_id


@pytest.mark.parametrize(("flag", "recorded"), [("01", True), ("00", False)])
async def test_a_sender_decides_whether_its_message_is_recorded(
    broker: Broker, collector: Collector, tmp_path: Path, flag: str, recorded: bool
) -> None:
    order, last = an_order(), an_order()
    spy = await broker.spy(("stock", "stock.rejected.v1"))
    async with running("stock", broker.url, f"sqlite:///{tmp_path}/s.db", otlp_endpoint=collector.url):
        await broker.publish(order, headers={"traceparent": f"{PARENT}-{flag}"})
        await spy.collect(1)
        await broker.publish(last, headers={"traceparent": f"{PARENT.replace('4bf', 'abc')}-01"})
        await spy.collect(2)
    assert (PARENT[3:35] in collector.traces()) is recorded
    followed = str(spy.seen[0].headers["traceparent"])
    assert followed[:36] == PARENT[:36]
    assert followed[-2:] == flag


async def test_a_batch_of_many_orders_is_linked_with_each_of_them(
    broker: Broker, collector: Collector, tmp_path: Path
) -> None:
    orders = [an_order() for _ in range(20)]
    parents = [f"00-{number:032x}-{number:016x}-01" for number in range(1, 21)]
    for order, parent in zip(orders, parents, strict=True):
        await broker.publish(order, headers={"traceparent": parent})
    spy = await broker.spy(("stock", "stock.rejected.v1"))
    async with running("stock", broker.url, f"sqlite:///{tmp_path}/s.db", otlp_endpoint=collector.url):
        await spy.collect(20)
    processed = collector.named("process stock")
    assert sorted(span.trace_id for span in processed) == sorted(parent[3:35] for parent in parents)
    batches = collector.named("batch stock")
    assert sum(span.attributes["messaging.batch.message_count"] for span in batches) == 20
    assert {span.parent_id for span in batches} | {link for span in batches for link in span.links} == {
        parent[36:52] for parent in parents
    }
    assert {link for span in processed for link in span.links} == {span.span_id for span in batches}
    carried = {str(message.headers["traceparent"])[3:35] for message in spy.seen}
    assert carried == {parent[3:35] for parent in parents}


async def test_a_handler_that_fails_is_seen_and_its_words_are_not(
    broker: Broker, collector: Collector, tmp_path: Path
) -> None:
    tries: list[int] = []

    @on(OrderPlaced)
    async def on_order_placed(order: OrderPlaced, unit: Any) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("ana@example.com is unknown")

    database_url = f"sqlite:///{tmp_path}/s.db"
    async with running("stock", broker.url, database_url, module_of(on_order_placed), otlp_endpoint=collector.url):
        await broker.publish(an_order(), headers={"traceparent": f"{PARENT}-01"})

        async def is_done() -> bool:
            return len(tries) == 2

        await until(is_done)
    first, second = collector.named("process stock")
    assert (first.has_failed, first.attributes["error.type"]) == (True, "ValueError")
    assert (second.has_failed, second.attributes["malote.attempt"]) == (False, 2)
    assert first.parent_id == second.parent_id == PARENT[36:]
    assert b"example.com" not in b"".join(collector.bodies)


@pytest.mark.parametrize("silent", [False, True])
async def test_a_collector_that_is_gone_or_silent_costs_no_order_and_one_warning(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setattr("shared.observability.otlp.EXPORT_SECONDS", 0.2)
    spy = await broker.spy(("stock", "stock.rejected.v1"))
    listener = socket.create_server(("127.0.0.1", 0))  # takes connections, and answers nothing
    nowhere = f"http://127.0.0.1:{listener.getsockname()[1] if silent else free_port()}"
    with capture_logs() as lines:
        async with running("stock", broker.url, f"sqlite:///{tmp_path}/s.db", otlp_endpoint=nowhere):
            for number in range(1, 4):
                await broker.publish(an_order())
                await spy.collect(number)
                await asyncio.sleep(0.1)  # an export of its own for each
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 30
    listener.close()
    assert [line["event"] for line in lines if "traces" in line["event"]] == [
        "traces: the collector does not take them"
    ]


def test_without_a_collector_nothing_of_the_sdk_is_loaded() -> None:
    look = "; ".join(
        (
            "import sys",
            "from shared.service.folder import service_in",
            "service_in('stock')",
            "print([m for m in sys.modules if 'telemetry.sdk' in m])",
        )
    )
    told = {**os.environ, "MALOTE_JWT_SECRET": secrets.token_hex(), "MALOTE_OTLP_ENDPOINT": ""}
    done = subprocess.run([sys.executable, "-c", look], cwd=ROOT, env=told, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_what_is_asked_for_after_a_question_mark_is_in_no_span(
    broker: Broker, collector: Collector, tmp_path: Path, postgres: PostgresCluster
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    told = {"otlp_endpoint": collector.url, "orders_url": nowhere, "reports_url": nowhere, "deadletters_url": nowhere}
    async with serving("gateway", broker.url, f"sqlite:///{tmp_path}/g.db", **told) as gateway, gateway.client() as ana:
        path = "/v1/reports/01890000-0000-7000-8000-000000000000/download?expires=1&signature=verysecret"
        assert (await ana.get(path)).status_code == 503
        assert (await ana.get("/v1/dead-letters?text=ana%40verysecret")).status_code == 503
        await ana.get("/v1/orders/01890000-0000-7000-8000-000000000000")
    told = [span.attributes.get("url.query") for span in collector.spans if span.kind == "SERVER"]
    assert told == ["REDACTED", "REDACTED", None]
    assert b"verysecret" not in b"".join(collector.bodies)


async def test_a_page_that_reports_asks_for_is_in_the_rebuilds_trace(
    broker: Broker, collector: Collector, tmp_path: Path
) -> None:
    told: dict[str, Any] = {"otlp_endpoint": collector.url}
    async with serving("orders", broker.url, f"sqlite:///{tmp_path}/o.db", **told) as orders:
        told |= {"orders_url": orders.url, "jwt_secret": SECRET}
        async with exporting(broker, f"sqlite:///{tmp_path}/r.db", tmp_path, **told):
            await broker.publish(FetchPage(source="orders", since=0), headers={"traceparent": f"{PARENT}-01"})
            await until(lambda: answered(collector, "GET /v1/orders"), "the page")
    (page,) = collector.named("GET /v1/orders")
    assert lineage(collector, page) == ["GET", "process reports.rebuild"]
    assert page.trace_id == PARENT[3:35]


async def answered(collector: Collector, name: str) -> bool:
    return bool(collector.named(name))


async def test_a_collectors_certificate_is_checked_against_all_authorities_that_a_service_trusts(
    certificates: Certificates, tmp_path: Path
) -> None:
    """The machine's own too, whichever file is named besides; and no others."""
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "stranger.pem"))
    shown = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    shown.load_cert_chain(*certificates.issue("127.0.0.1"))
    outcomes = []
    with collecting(shown) as collector:
        for machines, ours in (("ca", "stranger"), ("stranger", "ca"), ("stranger", "stranger")):
            files = {"ca": certificates.ca, "stranger": tmp_path / "stranger.pem"}
            outcomes.append(await asyncio.to_thread(export, collector.url, files[machines], files[ours]))
    assert outcomes == ["SUCCESS 2", "SUCCESS 2", "FAILURE 1"]


def export(url: str, machines: Path, ours: Path) -> str:
    """What becomes of nothing at all that is sent, on a machine with these authorities; and how many are trusted."""
    send = "; ".join(
        (
            "from shared.config.services import settings_of",
            "from shared.config.settings import load",
            "from shared.observability.otlp import Exporter",
            "settings = load(settings_of('stock'))",
            "found = Exporter(settings).export([]).name",
            "print(found, len(settings.tls.context.get_ca_certs()))",
        )
    )
    told = {"SSL_CERT_FILE": str(machines), "MALOTE_TLS_CA_FILE": str(ours), "MALOTE_OTLP_ENDPOINT": url}
    env = {**os.environ, **told, "MALOTE_JWT_SECRET": SECRET}
    done = subprocess.run([sys.executable, "-c", send], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]
