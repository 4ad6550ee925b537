"""Stock over HTTP: what operators can ask about the levels' past."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from contracts.orders import OrderCancelled, OrderConfirmed
from services.stock.store import Reservation, ReservationState
from shared.http.tokens import issue_token
from tests.integration.reserving import count
from tests.running import SECRET, Broker, an_order, until
from tests.servers import ON_SQLITE
from tests.serving import Served, serving

PRICE = {"amount": 100, "currency": "BRL"}


@pytest.fixture
async def stock(broker: Broker, database_url: str) -> AsyncIterator[Served]:
    async with serving("stock", broker.url, database_url) as served:
        yield served


@pytest.fixture
async def otto(stock: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with stock.client("otto", "operator") as client:
        product = {"name": "Coffee", "price": PRICE, "low_threshold": 0}
        assert (await client.put("/v1/products/A", json=product)).status_code == 200
        yield client


async def adjust(client: httpx.AsyncClient, delta: int, **headers: str) -> None:
    wish = {"delta": delta, "reason": f"delivery {delta}"}
    answer = await client.post("/v1/products/A/adjustments", json=wish, headers=headers)
    assert answer.status_code == 200, answer.text


async def test_an_adjustment_is_said_and_listed_once_however_often_it_is_sent(
    broker: Broker, otto: httpx.AsyncClient
) -> None:
    spy = await broker.spy(("stock", "stock.adjusted.v1"))
    for _ in range(3):
        await adjust(otto, 5, **{"Idempotency-Key": "the-same"})
    await adjust(otto, -2)
    said = await spy.collect(2)
    assert [(event["sku"], event["delta"], event["adjusted_by"]) for event in said] == [
        ("A", 5, "otto"),
        ("A", -2, "otto"),
    ]
    listed = (await otto.get("/v1/adjustments")).json()["data"]
    assert {entry.pop("id"): entry for entry in listed} == {event.pop("adjustment_id"): event for event in said}


async def test_one_key_for_several_products_at_once_is_one_adjustment_and_refusals(otto: httpx.AsyncClient) -> None:
    skus = ["A", "B", "C", "D"]
    for sku in skus:
        (await otto.put(f"/v1/products/{sku}", json={"name": sku, "price": PRICE})).raise_for_status()

    async def adjusted(sku: str, key: int) -> int:
        wish = {"delta": 1, "reason": "delivery"}
        headers = {"Idempotency-Key": str(key)}
        return (await otto.post(f"/v1/products/{sku}/adjustments", json=wish, headers=headers)).status_code

    for key in range(15):
        answers = await asyncio.gather(*(adjusted(sku, key) for sku in skus for _ in range(2)))
        assert sorted(answers) == [200] * 2 + [422] * 6
    assert await adjusted("NONE", 0) == 422, "the key comes before the product"
    assert await adjusted("NONE", 99) == 404
    assert sum([(await otto.get(f"/v1/products/{sku}")).json()["on_hand"] for sku in skus]) == 15


async def test_adjustments_are_listed_in_pages(otto: httpx.AsyncClient) -> None:
    for delta in (1, 2, 3):
        await adjust(otto, delta)
    first = (await otto.get("/v1/adjustments", params={"limit": 2})).json()
    assert [entry["delta"] for entry in first["data"]] == [3, 2]
    assert first["has_more"]
    after = {"limit": 2, "starting_after": first["data"][-1]["id"]}
    rest = (await otto.get("/v1/adjustments", params=after)).json()
    assert ([entry["delta"] for entry in rest["data"]], rest["has_more"]) == ([1], False)


async def test_reservations_say_what_became_of_them_and_when(
    broker: Broker, stock: Served, otto: httpx.AsyncClient
) -> None:
    await adjust(otto, 3)
    reserved, taken, back = (an_order([("A", 1)]) for _ in range(3))
    refused, unknown = an_order([("A", 9)]), an_order([("A", 1)])
    at: dict[str, Any] = {"cancelled_at": "2026-01-01T00:00:01Z", "order_job_id": "job"}
    for message in (
        *(reserved, taken, back, refused),
        *(OrderConfirmed(**order.model_dump(), confirmed_at=order.placed_at) for order in (taken, back)),
        *(OrderCancelled(**order.model_dump(), **at) for order in (back, unknown)),
    ):
        await broker.publish(message)
    await until(lambda: _are(stock, 5), "all to be known")
    found = (await otto.get("/v1/reservations")).json()["data"]
    assert [entry["order_id"] for entry in found] == [str(order.order_id) for order in (back, taken, reserved)]
    times = [[entry[name] is not None for name in ("reserved_at", "taken_at", "released_at")] for entry in found]
    assert times == [[True, True, True], [True, True, False], [True, False, False]]
    assert found[0]["lines"] == [{"sku": "A", "quantity": 1}]
    page = (await otto.get("/v1/reservations", params={"limit": 1, "starting_after": found[0]["order_id"]})).json()
    assert (page["data"], page["has_more"]) == ([found[1]], True)


async def test_a_reservation_from_before_its_time_was_written_down_is_not_listed(
    stock: Served, otto: httpx.AsyncClient
) -> None:
    async with stock.service.database.transaction() as session:
        session.add(Reservation(order_id=uuid7(), state=ReservationState.TAKEN, lines={"A": 1}))
    assert (await otto.get("/v1/reservations")).json() == {"data": [], "has_more": False}


async def test_a_price_change_is_said_and_listed_with_who_made_it(
    broker: Broker, stock: Served, otto: httpx.AsyncClient
) -> None:
    spy = await broker.spy(("stock", "product.priced.v1"))
    async with stock.client("olga", "operator") as olga:
        for name in ("Coffee, 1 kg", "Coffee, 1 kg"):  # the second changes nothing
            wish = {"name": name, "price": PRICE | {"amount": 120}}
            assert (await olga.put("/v1/products/A", json=wish)).status_code == 200
    said = await spy.collect(2)
    assert [(event["revision"], event["priced_by"]) for event in said] == [(2, "olga"), (2, "olga")]
    listed = (await otto.get("/v1/price-changes")).json()["data"]
    assert [(each["revision"], each["name"], each["price"]["amount"], each["changed_by"]) for each in listed] == [
        (2, "Coffee, 1 kg", 120, "olga"),
        (1, "Coffee", 100, "otto"),
    ]
    page = (await otto.get("/v1/price-changes", params={"limit": 1})).json()
    assert (page["data"], page["has_more"]) == (listed[:1], True)


@ON_SQLITE
async def test_a_token_that_may_only_read_changes_nothing(stock: Served, otto: httpx.AsyncClient) -> None:
    reading = issue_token(SECRET, subject="reports", role="operator", ttl=60, read_only=True)
    async with httpx.AsyncClient(base_url=stock.url, trust_env=False) as client:
        client.headers["authorization"] = f"Bearer {reading}"
        for path in ("/v1/products", "/v1/adjustments", "/v1/reservations", "/v1/price-changes"):
            assert (await client.get(path)).status_code == 200
        refused = await client.put("/v1/products/A", json={"name": "Tea", "price": PRICE})
        assert (refused.status_code, refused.json()["code"]) == (403, "read_only")
        refused = await client.post("/v1/products/A/adjustments", json={"delta": 5, "reason": "delivery"})
        assert (refused.status_code, refused.json()["code"]) == (403, "read_only")
    assert (await otto.get("/v1/products/A")).json()["name"] == "Coffee"


@pytest.mark.parametrize("path", ["/v1/reservations", "/v1/adjustments", "/v1/price-changes"])
@ON_SQLITE
async def test_customers_may_not_ask_about_the_levels_past(stock: Served, path: str) -> None:
    async with stock.client() as ana:
        assert (await ana.get(path)).status_code == 403


async def _are(stock: Served, number: int) -> bool:
    async with stock.service.database.reading() as session:
        ended = await session.scalar(text("SELECT count(*) FROM reservations WHERE state = 'RELEASED'"))
    return await count(stock.service, Reservation) == number and ended == 2
