"""The whole flow, one process per service: POST to confirmed, with mail to the local sink."""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
from sqlalchemy import func, select, text

from contracts.flow import SERVICES, SHOP
from deploy.local.ports import free_port
from services.orders.store import ListPrice, Order
from shared import topology
from shared.database import Database, migrate
from shared.tokens import issue_token
from tests.bench.common import SECRET, Figure, Machines, process, wait_for
from tests.bench.load import all_at_once, at_a_rate, percentile, post

ORDERS = 5_000
CONNECTIONS = 32
RATE, SECONDS = 20, 15
HOST = "127.0.0.1"
PRODUCTS = 20


def measure(machines: Machines, scale: float) -> list[Figure]:
    return [
        figure
        for kind in ("postgresql", "sqlite")
        for figure in asyncio.run(_measure(machines, kind, max(int(ORDERS * scale), 200)))
    ]


async def _measure(machines: Machines, kind: str, number: int) -> list[Figure]:
    ports = {name: free_port() for name in (*SERVICES, "smtp")}
    urls = {service: machines.database(kind) for service in SERVICES}
    passwords = {user: secrets.token_hex(8) for user in (*SERVICES, SHOP)}
    await topology.apply(machines.rabbit.amqp_url, machines.rabbit.management_url, passwords)
    for service, url in urls.items():
        await asyncio.to_thread(migrate, service, url)
    token = issue_token(SECRET, subject="bench", role="operator", ttl=3600)
    with _fleet(machines, ports, urls, passwords) as children:
        await _ready(ports)
        await _stock_up(ports, token)
        database, mails = Database(urls["orders"]), Database(urls["email"])
        await wait_for(lambda: _has(database, ListPrice, PRODUCTS), "the price list")

        started = time.monotonic()
        answers = await all_at_once(HOST, ports["gateway"], (_request(token) for _ in range(number)), CONNECTIONS)
        posted = time.monotonic() - started
        assert {answer.status for answer in answers} == {202}, {answer.status for answer in answers}
        confirmed = await wait_for(lambda: _has(database, Order, number, "CONFIRMED"), "all orders to be confirmed")
        mailed = await wait_for(lambda: _mailed(mails, 2 * number), "all mails to be sent")
        spent = {name: sum(child.cpu_times()[:2]) * 1000 / number for name, child in children.items()}

        waited = [_request(token, Prefer="wait=20") for _ in range(RATE * SECONDS)]
        calm = await at_a_rate(HOST, ports["gateway"], waited, RATE)
        assert all(json.loads(answer.body)["status"] == "SUCCESS" for answer in calm)
        await database.dispose()
        await mails.dispose()
    return [
        Figure(f"POST /v1/orders, {CONNECTIONS} connections, {kind}", round(number / posted, 1), "requests/s"),
        Figure(f"POST /v1/orders, p50, {kind}", percentile(answers, 0.5), "ms"),
        Figure(f"POST /v1/orders, p99, {kind}", percentile(answers, 0.99), "ms"),
        Figure(f"whole flow, {kind}", round(number / (confirmed - started), 1), "orders/s"),
        Figure(f"whole flow and mails, {kind}", round(number / (mailed - started), 1), "orders/s"),
        Figure(f"POST to confirmed at {RATE} orders/s, p50, {kind}", percentile(calm, 0.5), "ms"),
        Figure(f"POST to confirmed at {RATE} orders/s, p99, {kind}", percentile(calm, 0.99), "ms"),
        *(Figure(f"CPU of {name}, {kind}", round(cost, 2), "ms/order") for name, cost in spent.items()),
    ]


@contextlib.contextmanager
def _fleet(
    machines: Machines, ports: dict[str, int], urls: dict[str, str], passwords: dict[str, str]
) -> Iterator[dict[str, psutil.Process]]:
    common = {
        "MALOTE_JWT_SECRET": SECRET,
        "MALOTE_LOG_FORMAT": "json",
        "MALOTE_DATA": str(machines.folder / "data"),
        "MALOTE_SMTP_PORT": str(ports["smtp"]),
        "EMAIL_SMTP_HOST": HOST,
        "EMAIL_SMTP_PORT": str(ports["smtp"]),
        "GATEWAY_ORDERS_URL": f"http://{HOST}:{ports['orders']}",
        "GATEWAY_STOCK_URL": f"http://{HOST}:{ports['stock']}",
        "GATEWAY_REPORTS_URL": f"http://{HOST}:{ports['reports']}",
        "GATEWAY_DEADLETTERS_URL": f"http://{HOST}:{ports['deadletters']}",
        "REPORTS_STORAGE_URL": str(machines.folder / "reports"),
    }
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(process(machines.folder / "mail.log", "deploy.local.mailsink", common))
        children = {"the mail sink": psutil.Process(sink.pid), "RabbitMQ": psutil.Process(machines.rabbit.pid)}
        for service in SERVICES:
            own = {
                f"{service.upper()}_AMQP_URL": machines.rabbit.url_for(service, passwords[service]),
                f"{service.upper()}_DATABASE_URL": urls[service],
                f"{service.upper()}_PORT": str(ports[service]),
            }
            child = process(machines.folder / f"{service}.log", f"services.{service}.app", common | own)
            children[service] = psutil.Process(stack.enter_context(child).pid)
        yield children


async def _ready(ports: dict[str, int]) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:

        async def all_ready() -> bool:
            try:
                answers = [await http.get(f"http://{HOST}:{ports[service]}/readyz") for service in SERVICES]
            except httpx.HTTPError:
                return False
            return all(answer.status_code == 200 for answer in answers)

        await wait_for(all_ready, "all services", 60)


async def _stock_up(ports: dict[str, int], token: str) -> None:
    address = f"http://{HOST}:{ports['gateway']}/v1/products"
    async with httpx.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {token}"}) as http:
        for n in range(PRODUCTS):
            product = {"name": f"Product {n}", "price": {"amount": 1000 + n, "currency": "BRL"}, "low_threshold": 0}
            (await http.put(f"{address}/SKU-{n}", json=product)).raise_for_status()
            delivered = {"delta": 1_000_000, "reason": "bench"}
            (await http.post(f"{address}/SKU-{n}/adjustments", json=delivered)).raise_for_status()


async def _mailed(database: Database, number: int) -> bool:
    async with database.reading() as session:
        sent: Any = text("SELECT count(*) FROM mails WHERE status = 'SENT'")
        return (await session.scalar(sent) or 0) >= number


async def _has(database: Database, table: Any, number: int, state: str | None = None) -> bool:
    query = select(func.count()).select_from(table)
    async with database.reading() as session:
        found = await session.scalar(query.where(table.state == state) if state else query)
    return (found or 0) >= number


def _request(token: str, **headers: str) -> bytes:
    skus = [f"SKU-{secrets.randbelow(PRODUCTS)}" for _ in range(2)]
    customer = {"id": secrets.token_hex(4), "name": "Ana", "email": "ana@example.com", "locale": "pt-BR"}
    body = {"customer": customer, "currency": "BRL", "lines": [{"sku": sku, "quantity": 1} for sku in skus]}
    return post("/v1/orders", token, body, **headers)
