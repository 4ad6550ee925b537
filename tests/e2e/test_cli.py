"""The command line against a running fleet, as a person and as a script use it."""

import json
import mailbox
from typing import Any

import httpx

from contracts.flow import LANES, SERVICES
from tests.e2e.conftest import Fleet, until


def asked(fleet: Fleet, *arguments: str, expect: int = 0) -> Any:
    """What a command prints with --json, which has to be JSON and nothing else."""
    return json.loads(fleet.malote(*arguments, "--json", expect=expect))


def refused(fleet: Fleet, *arguments: str, expect: int, **environment: str) -> str:
    """The one line on stderr with which a command ends."""
    done = fleet.command(*arguments, **environment)
    assert (done.returncode, done.stderr.count("\n")) == (expect, 1), done.stdout + done.stderr
    return done.stderr


def mails_to(fleet: Fleet, address: str, number: int) -> list[Any]:
    """Wait for so many mails to an address; what is listed, newest first."""

    def look() -> list[Any]:
        listed: list[Any] = asked(fleet, "mail", "list", "--to", address)["data"]
        return listed if len(listed) >= number else []

    return until(look, f"{number} mails to {address}")


def is_confirmed(fleet: Fleet, order_id: str) -> None:
    """Wait for an order that orders may not know yet."""
    until(lambda: "CONFIRMED" in fleet.command("orders", "show", order_id, "--json").stdout, f"order {order_id}")


def test_the_demo_ends_well(fleet: Fleet) -> None:
    result = asked(fleet, "demo")
    assert result["ok"], [order for order in result["orders"] if order["problems"]]
    assert [result[name] for name in ("placed", "confirmed", "rejected", "cancelled")] == [50, 48, 1, 1]
    assert 100 <= result["mails"] <= 101


def test_the_demo_ends_well_again_and_says_a_line_for_each_order_where_there_is_no_terminal(fleet: Fleet) -> None:
    lines = fleet.malote("demo").splitlines()
    assert sum(" CONFIRMED " in line and line[8:9] == "-" for line in lines) == 48
    assert "WRONG" not in "".join(lines)


def test_an_order_is_placed_shown_listed_and_cancelled(fleet: Fleet) -> None:
    placed = asked(fleet, "orders", "place", "--sku", "COFFEE-1KG:2", "--sku", "MUG-BLUE", "--wait", "20")
    assert placed["status"] == "SUCCESS"
    order = asked(fleet, "orders", "show", placed["order_id"])
    assert (order["status"], order["total"]) == ("CONFIRMED", {"amount": 2 * 6990 + 3990, "currency": "BRL"})
    assert "179.70 BRL" in fleet.malote("orders", "show", placed["order_id"])
    assert order["id"] in {listed["id"] for listed in asked(fleet, "orders", "list", "--status", "CONFIRMED")["data"]}
    assert asked(fleet, "orders", "cancel", order["id"], "--wait", "20")["status"] == "SUCCESS"
    assert asked(fleet, "orders", "show", order["id"])["status"] == "CANCELLED"


def test_one_idempotency_key_is_one_order(fleet: Fleet) -> None:
    place = ("orders", "place", "--sku", "MUG-BLUE", "--idempotency-key", "cli-1")
    assert asked(fleet, *place)["order_id"] == asked(fleet, *place)["order_id"]
    assert "idempotency" in refused(fleet, *place, "--sku", "FILTER-103", expect=4).lower()


def test_an_order_that_is_waited_for_in_vain_is_status_1(fleet: Fleet) -> None:
    job = asked(fleet, "orders", "place", "--sku", "MUG-RARE:10000", "--wait", "20", expect=1)
    assert (job["status"], job["error"]["code"]) == ("FAILURE", "out_of_stock")


def test_a_job_is_watched_to_its_end(fleet: Fleet) -> None:
    good = asked(fleet, "orders", "place", "--sku", "MUG-BLUE")["job_id"]
    lines = [json.loads(line) for line in fleet.malote("jobs", "watch", good, "--json").splitlines()]
    assert lines[-1]["status"] == "SUCCESS"
    assert "order.confirmed.v1 by orders" in fleet.malote("jobs", "watch", good)
    assert "order.confirmed.v1" in fleet.malote("jobs", "show", good)
    bad = asked(fleet, "orders", "place", "--sku", "NO-SUCH-THING")["job_id"]
    assert "unknown_sku" in refused(fleet, "jobs", "watch", bad, "--json", expect=1)
    assert bad in {job["id"] for job in asked(fleet, "jobs", "list", "--status", "FAILURE")["data"]}


def test_a_job_that_has_ended_is_not_cancelled_any_more(fleet: Fleet) -> None:
    placed = asked(fleet, "orders", "place", "--sku", "MUG-BLUE", "--wait", "20")
    assert "The job has ended" in refused(fleet, "jobs", "cancel", placed["job_id"], expect=4)


def test_lanes_are_shown_with_what_they_have_to_do(fleet: Fleet) -> None:
    found = {lane["lane"]: lane for lane in asked(fleet, "lanes")["data"]}
    assert set(found) == set(LANES)
    assert all((lane["consumers"], lane["paused"]) == (1, None) for lane in found.values())
    assert all(
        isinstance(lane[name], int | float) for lane in found.values() for name in ("retrying", "oldest_seconds")
    )


def test_every_process_says_that_it_lives_and_answers_a_ping(fleet: Fleet) -> None:
    found = asked(fleet, "processes")["data"]
    assert [one["service"] for one in found] == list(SERVICES)
    assert {lane["name"] for one in found for lane in one["lanes"]} >= set(LANES)
    assert {one["process_id"] for one in asked(fleet, "processes", "ping")["data"]} == {
        one["process_id"] for one in found
    }
    shown = fleet.malote("processes")
    assert all(name in shown for name in (*SERVICES, "in hand", "done"))


def test_a_service_is_restarted_and_its_warnings_are_in_the_logs_without_an_id(fleet: Fleet) -> None:
    restarted = asked(fleet, "restart", "stock")
    assert restarted["pid"] != restarted["before"]
    lines = [
        json.loads(said) for said in fleet.malote("logs", "--service", "stock", "--since", "2m", "--json").splitlines()
    ]
    assert {line["service"] for line in lines} == {"stock"}
    assert "consuming" in {line["event"] for line in lines}
    assert "stock ended" in fleet.malote("logs", "--service", "supervisor", "--level", "warning", "--since", "2m")
    assert "nobody" in refused_usage(fleet, "restart", "nobody")


def refused_usage(fleet: Fleet, *arguments: str) -> str:
    """What is said of a wrong command line."""
    done = fleet.command(*arguments)
    assert done.returncode == 2
    return done.stderr


def test_products_and_levels_are_set(fleet: Fleet) -> None:
    fleet.malote("products", "set", "CLI-1", "--name", "Açúcar [1 kg]", "--price", "5.49")
    assert asked(fleet, "stock", "adjust", "CLI-1", "7", "--reason", "delivery")["available"] == 7
    assert asked(fleet, "stock", "adjust", "CLI-1", "-2", "--reason", "broken")["available"] == 5
    assert "CLI-1 has 5" in refused(fleet, "stock", "adjust", "CLI-1", "-6", "--reason", "broken", expect=4)
    (row,) = [line for line in fleet.malote("products", "list").splitlines() if line.startswith("CLI-1")]
    assert "Açúcar [1 kg]" in row
    assert "5.49 BRL" in row
    fleet.malote("stock", "adjust", "CLI-1", "-5", "--reason", "so that no random order finds it")
    assert asked(fleet, "products", "seed") == {"products": 0}


def test_a_mail_is_read_in_the_mailbox(fleet: Fleet) -> None:
    sent = asked(fleet, "orders", "place", "--sku", "MUG-BLUE", "--email", "reader@example.com", "--wait", "20")
    newest = mails_to(fleet, "reader@example.com", 2)[0]
    mail = asked(fleet, "mail", "show", newest["id"])
    assert sent["order_id"] in mail["text"]
    assert mail["subject"] in fleet.malote("mail", "list", "--to", "reader@example.com")
    assert len(mailbox.Maildir(fleet.status["mailbox"])) >= 2


def test_orders_by_the_hundred_are_placed(fleet: Fleet) -> None:
    result = asked(fleet, "populate", "100")
    assert (result["accepted"], result["failed"]) == (100, 0)
    assert result["rate"] > 0


def test_a_token_is_good_for_its_role(fleet: Fleet) -> None:
    token = fleet.malote("token", "--role", "customer", "--subject", "somebody").strip()
    assert "customer" in refused(fleet, "orders", "place", "--sku", "MUG-BLUE", expect=4, MALOTE_TOKEN=token)
    assert "MALOTE_TOKEN" in refused(fleet, "orders", "list", expect=4, MALOTE_TOKEN="forged")


def test_the_messages_are_documented_alike_by_each_service_the_gateway_and_the_command_line(fleet: Fleet) -> None:
    for name in SERVICES:
        said = json.loads(fleet.malote("asyncapi", name))
        own = f"http://127.0.0.1:{fleet.environment[f'{name.upper()}_PORT']}/asyncapi.json"
        served = f"{fleet.status['gateway_url']}/asyncapi/{name}"
        for url in (served, *([own] if name != "gateway" else [])):
            assert httpx.get(url, trust_env=False).json() == said, url
    assert httpx.get(f"{fleet.status['gateway_url']}/asyncapi", trust_env=False).text == fleet.malote("asyncapi")


def test_topology_and_databases_can_be_brought_up_to_date_at_any_time(fleet: Fleet) -> None:
    for _ in range(2):
        fleet.malote("topology", "apply")
        fleet.malote("migrate", "all")
    assert "order.placed.v1" in fleet.malote("topology", "show")
    lanes = {queue["name"] for queue in asked(fleet, "topology", "show")["queues"]}
    assert {"lane.orders", "lane.orders.dlq", "wait.5s"} <= lanes
