"""Processes of a service come and go while orders run."""

import json

import httpx
import psutil

from tests.e2e.conftest import Fleet, until
from tests.e2e.test_fleet import available, client, customers, log_lines, status

STOCK = ["stock", "stock-1"]
DONE = 'malote_messages_total{lane="stock",message="order.placed.v1",outcome="done",service="stock"}'


def has_worked(port: int) -> bool:
    return DONE in httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text


def has_placed(http: httpx.Client) -> bool:
    """Whether an order still waits for stock."""
    return bool(http.get("/v1/orders", params={"status": "PLACED", "limit": 1}).raise_for_status().json()["data"])


def test_replicas_take_their_share_and_end_when_they_are_too_many_and_no_order_is_lost(fleet: Fleet) -> None:
    fleet.malote("stock", "adjust", sku := "COFFEE-1KG", "1000", "--reason", "delivery")
    try:
        with client(fleet) as http:
            pieces = available(http, sku)
            with customers(http, sku) as accepted:
                until(lambda: accepted, "orders before it")
                scaled = json.loads(fleet.malote("scale", "stock=2", "--json"))["services"]
                assert [one["name"] for one in scaled if one["ready"]] == STOCK
                until(lambda: all(has_worked(one["port"]) for one in scaled), "each process to take orders")
                fleet.malote("scale", "stock=1")
                known = len(accepted)
                until(lambda: len(accepted) >= known + 5, "orders after it")
            left = pieces - len(accepted)
            until(lambda: available(http, sku) <= left and not has_placed(http), "every order to be confirmed")
            assert available(http, sku) == left
    finally:
        fleet.command("scale", "stock=1")  # for the tests that share this fleet
    assert [name for name in status(fleet) if name.startswith("stock")] == ["stock"]
    assert [one["pid"] for one in scaled if psutil.pid_exists(one["pid"])] == [scaled[0]["pid"]]
    assert all("stopped" in [line["event"] for line in log_lines(fleet, name)] for name in STOCK[1:])
