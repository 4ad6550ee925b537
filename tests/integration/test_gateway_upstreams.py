"""What the gateway passes on: orders and stock answer behind it, with the caller's own token."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from services.orders.store import Order
from tests.serving import NO_BROKER, Served, serving, token

ADJUSTMENT = {"delta": 1, "reason": "count"}
PRODUCT = {"name": "Coffee, 1 kg", "price": {"amount": 6990, "currency": "BRL"}, "low_threshold": 5}
ANA = {"id": "ana", "name": "Ana Souza", "email": "ana@example.com", "locale": "pt-BR"}


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[tuple[Served, Served]]:
    """The gateway, and orders behind it (and stock)."""
    async with (
        serving("orders", NO_BROKER, f"sqlite:///{tmp_path}/orders.db") as orders,
        serving("stock", NO_BROKER, f"sqlite:///{tmp_path}/stock.db") as stock,
        serving(
            "gateway", NO_BROKER, f"sqlite:///{tmp_path}/gateway.db", orders_url=orders.url, stock_url=stock.url
        ) as gateway,
    ):
        yield gateway, orders


async def an_order_of_ana(orders: Served, state: str) -> UUID:
    """One that a shop's own system placed: the gateway has no job of it."""
    order_id = uuid7()
    lines = [{"sku": "A", "quantity": 1}]
    order = Order(
        id=order_id, state=state, job_id="x", customer_id="ana", customer=ANA, currency="BRL", lines=lines, placed_at=1
    )
    async with orders.service.database.transaction() as session:
        session.add(order)
    return order_id


async def test_the_catalogue_is_kept_through_the_gateway(fleet: tuple[Served, Served]) -> None:
    gateway, _ = fleet
    async with gateway.client("olga", "operator") as operator, gateway.client() as ana:
        assert (await ana.get("/v1/products/COFFEE-1KG")).status_code == 404
        assert (await operator.put("/v1/products/COFFEE-1KG", json=PRODUCT)).json()["available"] == 0
        path, key = "/v1/products/COFFEE-1KG/adjustments", {"Idempotency-Key": "delivery 4711"}
        for _ in range(2):
            answer = await operator.post(path, json={"delta": 7, "reason": "delivery 4711"}, headers=key)
            assert answer.json()["on_hand"] == 7
        too_many = await operator.post(path, json={"delta": -8, "reason": "count"})
        assert too_many.status_code == 409
        assert too_many.headers["content-type"] == "application/problem+json"
        assert too_many.json()["request_id"] == too_many.headers["x-request-id"]
        listed = (await ana.get("/v1/products", params={"limit": 1})).json()
        assert [product["sku"] for product in listed["data"]] == ["COFFEE-1KG"]


async def test_what_only_operators_may_do_is_refused_to_customers_and_logged_with_the_reason(
    fleet: tuple[Served, Served],
) -> None:
    gateway, _ = fleet
    async with gateway.client() as ana:
        with capture_logs() as logged:
            asked = {"/v1/products/A": ("PUT", PRODUCT), "/v1/products/A/adjustments": ("POST", ADJUSTMENT)}
            for path, (method, body) in asked.items():
                refused = await ana.request(method, path, json=body)
                assert (refused.status_code, refused.json()["code"]) == (403, "operators_only")
    lines = [line for line in logged if line["event"] == "http" and "ana" in str(line.get("subject"))]
    assert [line["reason"] for line in lines] == ["operators_only"] * 4, "at the gateway and at stock"


async def test_what_does_not_fit_is_refused_by_its_owner(fleet: tuple[Served, Served]) -> None:
    gateway, _ = fleet
    async with gateway.client("olga", "operator") as operator:
        for delta in (0, 1_000_001, -1_000_001, 1.5, "1", None, True):
            answer = await operator.post("/v1/products/A/adjustments", json={"delta": delta, "reason": "count"})
            assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/delta")
        for key in ("", '""', "x" * 256):
            answer = await operator.post(
                "/v1/products/A/adjustments", json=ADJUSTMENT, headers={"Idempotency-Key": key}
            )
            assert answer.status_code == 422
        assert (await operator.get("/v1/products/a%00")).status_code == 422
        assert (await operator.get("/v1/orders", params={"limit": 0})).status_code == 422


@pytest.mark.parametrize("path", ["prices", "adjustments", "reservations"])
async def test_what_services_ask_of_each_other_is_not_passed_on(fleet: tuple[Served, Served], path: str) -> None:
    gateway, _ = fleet
    answer = await asyncio.to_thread(_as_it_stands, gateway, f"/v1/{path}")
    assert answer.startswith(b"HTTP/1.1 404")
    assert b'"code":"not_found"' in answer


@pytest.mark.parametrize("sku", ["..", ".", "%2e%2e", "%2E."])
async def test_no_path_climbs_to_another_one_at_the_owner(fleet: tuple[Served, Served], sku: str) -> None:
    gateway, _ = fleet
    answer = await asyncio.to_thread(_as_it_stands, gateway, f"/v1/products/{sku}/adjustments", "POST")
    assert answer.startswith(b"HTTP/1.1 404")


def _as_it_stands(gateway: Served, path: str, method: str = "GET") -> bytes:
    """The answer to a request whose path no client has tidied up."""
    url = urlsplit(gateway.url)
    asked = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token('o', 'operator')}\r\n"
    with socket.create_connection((url.hostname, url.port)) as connection:
        connection.sendall(f"{asked}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b""))


async def test_an_order_is_shown_to_its_customer_and_to_operators_only(fleet: tuple[Served, Served]) -> None:
    gateway, orders = fleet
    order_id = await an_order_of_ana(orders, "CONFIRMED")
    async with gateway.client() as ana, gateway.client("bia") as bia, gateway.client("o", "operator") as operator:
        assert (await ana.get(f"/v1/orders/{order_id}")).json()["status"] == "CONFIRMED"
        assert (await operator.get(f"/v1/orders/{order_id}")).status_code == 200
        assert (await bia.get(f"/v1/orders/{order_id}")).status_code == 404
        assert len((await ana.get("/v1/orders", params={"status": "CONFIRMED"})).json()["data"]) == 1
        assert (await ana.get("/v1/orders", params={"status": "PLACED"})).json()["data"] == []
        assert (await bia.get("/v1/orders")).json()["data"] == []


@pytest.mark.parametrize(("state", "status"), [("CONFIRMED", 202), ("CANCELLED", 409), ("REJECTED", 409)])
async def test_an_order_that_came_another_way_can_be_cancelled_if_its_owner_says_so(
    fleet: tuple[Served, Served], state: str, status: int
) -> None:
    gateway, orders = fleet
    order_id = await an_order_of_ana(orders, state)
    async with gateway.client() as ana, gateway.client("bia") as bia:
        assert (await bia.post(f"/v1/orders/{order_id}/cancel")).status_code == 404
        assert (await ana.post(f"/v1/orders/{order_id}/cancel")).status_code == status
        assert (await ana.post(f"/v1/orders/{uuid7()}/cancel")).status_code == 404
