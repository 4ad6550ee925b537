"""The whole shop as a newcomer runs it: orders over HTTP to mails in the mailbox, and a fleet that holds together."""

import contextlib
import json
import mailbox
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email import message_from_binary_file
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from uuid_utils.compat import uuid7

from contracts.flow import SERVICES
from tests.e2e.conftest import ROOT, Fleet, own_ports, until

MEMORY = 650_000_000
"""Bytes that a fleet of six services may use in all, after the orders of other tests. Without sharing, a fleet that has
just begun uses 810 MB."""


def client(fleet: Fleet, role: str = "operator", subject: str = "fleet-test") -> httpx.Client:
    token = fleet.malote("token", "--role", role, "--subject", subject).strip()
    login = {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=fleet.status["gateway_url"], headers=login, timeout=40, trust_env=False)


def an_order(sku: str = "COFFEE-1KG", quantity: int = 1, locale: str = "en", customer: str = "") -> dict[str, Any]:
    """An order of somebody whose mail nobody else gets."""
    who = customer or f"c{uuid7().hex}"
    email = f"{who}@example.com"
    buyer = {"id": who, "name": "Ana Souza", "email": email, "locale": locale}
    return {"customer": buyer, "currency": "BRL", "lines": [{"sku": sku, "quantity": quantity}]}


def placed(http: httpx.Client, order: dict[str, Any], wait: int = 20) -> dict[str, Any]:
    answer = http.post("/v1/orders", json=order, headers={"Prefer": f"wait={wait}"} if wait else {})
    assert answer.is_success, answer.text
    body: dict[str, Any] = answer.json()
    return body


def order_of(http: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    answer = http.get(f"/v1/orders/{job['order_id']}")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def available(http: httpx.Client, sku: str) -> int:
    return int(http.get(f"/v1/products/{sku}").json()["available"])


def mails_to(fleet: Fleet, address: str, number: int) -> list[EmailMessage]:
    """Wait for so many mails to an address; all that it got, oldest first."""

    def look() -> list[Any]:
        box = mailbox.Maildir(fleet.status["mailbox"], lambda file: message_from_binary_file(file, policy=default))
        mine = [mail for mail in box if mail["To"] == address]
        return mine if len(mine) >= number else []

    return sorted(until(look, f"{number} mails to {address}"), key=lambda mail: str(mail["Message-ID"]))


def text_of(mail: EmailMessage) -> str:
    body = mail.get_body(("plain",))
    assert body
    content: str = body.get_content()
    return content


def status(fleet: Fleet) -> dict[str, dict[str, Any]]:
    """What `malote status --json` says, by service."""
    return {service["name"]: service for service in json.loads(fleet.command("status", "--json").stdout)["services"]}


def pids(fleet: Fleet) -> dict[str, int]:
    return {name: service["pid"] for name, service in status(fleet).items()}


def state(fleet: Fleet) -> dict[str, Any]:
    """What the supervisor wrote down."""
    found: dict[str, Any] = json.loads((data(fleet) / "run" / "state.json").read_text())
    return found


def data(fleet: Fleet) -> Path:
    return Path(fleet.environment["MALOTE_DATA"])


def said(fleet: Fleet) -> str:
    return (data(fleet) / "logs" / "supervisor.log").read_text()


def log_lines(fleet: Fleet, service: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (data(fleet) / "logs" / f"{service}.log").read_text().splitlines()]


def processes_of(fleet: Fleet) -> list[str]:
    """Every process that was started with the fleet's data folder, or below it."""
    found = []
    for process in psutil.process_iter():
        try:
            own = process.environ()
        except psutil.Error:
            continue
        folder = str(data(fleet))
        if own.get("HOME", "").startswith(folder) or (own.get("MALOTE_DATA") == folder and process.pid != os.getpid()):
            found.append(" ".join(process.cmdline()))
    return found


# -- orders -----------------------------------------------------------------------------------------------------------


def test_an_order_is_confirmed_with_two_mails_in_the_customers_language(fleet: Fleet) -> None:
    wish = an_order(quantity=2)
    with client(fleet) as http:
        job = placed(http, wish)
        assert job["status"] == "SUCCESS", job
        order = order_of(http, job)
        timeline = [entry["message"] for entry in http.get(job["links"]["job"]).json()["timeline"]]
    assert (order["status"], order["reason"]) == ("CONFIRMED", None)
    assert order["total"] == {"amount": 2 * 6990, "currency": "BRL"}
    assert order["lines"][0]["unit_price"] == {"amount": 6990, "currency": "BRL"}
    assert timeline[0] == "order.place.v1"
    assert timeline[-1] == "order.confirmed.v1"
    first, second = mails_to(fleet, wish["customer"]["email"], 2)
    number = order["id"][-8:].upper()
    assert [first["Subject"], second["Subject"]] == [f"We have your order {number}", f"Order {number} is confirmed"]
    assert "R$139.80" in text_of(first).replace("\N{NO-BREAK SPACE}", "")


def test_whoever_answers_requests_goes_before_those_who_work_behind_it(fleet: Fleet) -> None:
    nice = {name: psutil.Process(pid).nice() for name, pid in pids(fleet).items()}
    behind = {"gateway": 0, "email": 5, "orders": 12, "stock": 12, "reports": 16, "deadletters": 16}
    assert nice == {name: min(19, nice["gateway"] + by) for name, by in behind.items()}


def test_an_order_is_accepted_at_once_and_can_be_waited_for(fleet: Fleet) -> None:
    with client(fleet) as http:
        answer = http.post("/v1/orders", json=an_order())
        assert (answer.status_code, answer.headers["Location"]) == (202, answer.json()["links"]["job"])
        job = http.post(f"{answer.headers['Location']}/wait", params={"timeout": 20}).json()
    assert job["status"] == "SUCCESS"


def test_a_rejected_order_says_why_and_so_does_its_mail(fleet: Fleet) -> None:
    wish = an_order("MUG-RARE", 10_000)
    with client(fleet) as http:
        job = placed(http, wish)
        order = order_of(http, job)
    assert (job["status"], job["error"]["code"]) == ("FAILURE", "out_of_stock")
    assert (order["status"], order["reason"]) == ("REJECTED", "out_of_stock")
    (line,) = order["rejected_lines"]
    assert (line["sku"], line["quantity"]) == ("MUG-RARE", 10_000)
    assert 0 <= line["available"] < 10_000
    _, rejected = mails_to(fleet, wish["customer"]["email"], 2)
    assert "MUG-RARE" in text_of(rejected)


def test_an_order_for_what_nobody_knows_gets_one_mail(fleet: Fleet) -> None:
    wish = an_order("NO-SUCH-THING")
    with client(fleet) as http:
        order = order_of(http, placed(http, wish))
        placed(http, an_order())  # by now a second mail would be on its way
    assert (order["status"], order["reason"]) == ("REJECTED", "unknown_sku")
    (mail,) = mails_to(fleet, wish["customer"]["email"], 1)
    assert "NO-SUCH-THING" not in text_of(mail)  # a customer's own words would reach whoever the mail goes to


def test_a_cancelled_order_gives_its_pieces_back_and_a_third_mail(fleet: Fleet) -> None:
    sku = f"FLEET-{uuid7().hex[-8:].upper()}"
    fleet.malote("products", "set", sku, "--name", "Caneca", "--price", "5.00")
    fleet.malote("stock", "adjust", sku, "10", "--reason", "delivery")
    with client(fleet) as http:

        def confirmed() -> tuple[dict[str, Any], dict[str, Any]] | None:
            wish = an_order(sku, 7, locale="pt-BR")
            job = placed(http, wish)
            return (wish, job) if job["status"] == "SUCCESS" else None

        wish, job = until(confirmed, "orders to know the price")
        assert available(http, sku) == 3
        answer = http.post(f"/v1/orders/{job['order_id']}/cancel", headers={"Prefer": "wait=20"})
        assert answer.json()["status"] == "SUCCESS", answer.text
        assert order_of(http, job)["status"] == "CANCELLED"
        again = http.post(f"/v1/orders/{job['order_id']}/cancel", headers={"Prefer": "wait=20"}).json()
        assert (again["status"], again["error"]["code"]) == ("FAILURE", "already_cancelled")
        until(lambda: available(http, sku) == 10, "the pieces to be back")
    assert "cancelado" in mails_to(fleet, wish["customer"]["email"], 3)[-1]["Subject"]


def test_a_customer_sees_its_own_orders_only(fleet: Fleet) -> None:
    bea, carl = (f"{name}-{uuid7().hex[-8:]}" for name in ("bea", "carl"))
    with client(fleet, "customer", bea) as hers, client(fleet, "customer", carl) as his:
        mine, other = placed(hers, an_order(customer=bea)), placed(his, an_order(customer=carl))
        assert [order["id"] for order in hers.get("/v1/orders").json()["data"]] == [mine["order_id"]]
        assert order_of(hers, mine)["customer"]["id"] == bea
        theirs = [f"/v1/orders/{other['order_id']}", other["links"]["job"], other["links"]["events"]]
        assert [hers.get(path).status_code for path in theirs] == [404, 404, 404]
        assert hers.post(f"{theirs[0]}/cancel").status_code == 404
        assert hers.post("/v1/orders", json=an_order(customer=carl)).status_code == 403
        assert hers.put("/v1/products/MUG-BLUE", json={}).status_code in (403, 422)
    nobody = httpx.get(f"{fleet.status['gateway_url']}/v1/orders", trust_env=False)
    assert nobody.status_code == 401


def test_one_orders_story_stands_in_the_logs_under_its_correlation_id(fleet: Fleet) -> None:
    with client(fleet) as http:
        job = placed(http, an_order())

    def story() -> set[tuple[str, str]]:
        lines = [line for service in SERVICES for line in log_lines(fleet, service)]
        return {
            (line["lane"], line["message"])
            for line in lines
            if line.get("correlation_id") == job["job_id"] and line["event"] == "done"
        }

    whole = {
        ("orders", "order.place.v1"), ("stock", "order.placed.v1"), ("orders", "stock.reserved.v1"),
        ("stock", "order.confirmed.v1"), ("gateway", "order.confirmed.v1"), ("email", "order.placed.v1"),
        ("email", "order.confirmed.v1"), ("email.outgoing", "mail.deliver.v1"),
    }  # fmt: skip
    until(lambda: story() >= whole, "the whole story")


# -- the fleet --------------------------------------------------------------------------------------------------------


def test_a_second_up_finds_what_is_there(fleet: Fleet) -> None:
    before, lines = pids(fleet), said(fleet)
    printed = fleet.run("make", "up", "DETACH=1")
    assert (pids(fleet), said(fleet)) == (before, lines)
    assert f"{fleet.status['gateway_url']}/docs" in printed
    assert "curl -s" in printed


def test_a_second_up_loads_nothing_of_what_the_services_are_made_of(fleet: Fleet) -> None:
    looks = ["-X", "importtime", "-m", "deploy.cli.app", "up", "--detach"]
    done = subprocess.run(
        [sys.executable, *looks], cwd=ROOT, env=fleet.environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "deploy.cli.up" in loaded
    assert not loaded & {"deploy.local.supervisor", "fastapi", "faststream", "sqlalchemy", "aio_pika"}


def memory(pid: int) -> dict[str, int]:
    """What a process uses, in bytes, by the names that the system has for the parts: `Pss` is its share of all."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each process has an interpreter of its own")
def test_the_fleet_is_small_because_its_processes_share_what_they_import(fleet: Fleet) -> None:
    keeper = psutil.Process(state(fleet)["supervisor"])
    used = {one.pid: memory(one.pid) for one in (keeper, *keeper.children(recursive=True))}
    for name, pid in pids(fleet).items():
        own = used[pid]["Private_Dirty"] + used[pid]["Private_Clean"]
        assert own < used[pid]["Rss"] / 2, f"{name} shares too little"
    assert sum(one["Pss"] for one in used.values()) < MEMORY


def test_the_line_to_paste_places_an_order(fleet: Fleet) -> None:
    (line,) = [line for line in fleet.run("make", "up", "DETACH=1").splitlines() if line.startswith("curl ")]
    assert json.loads(fleet.run("bash", "-c", line))["status"] == "SUCCESS"


@pytest.mark.parametrize("service", ["stock", "orders"])
def test_a_killed_service_is_started_again_and_an_order_meanwhile_is_confirmed(fleet: Fleet, service: str) -> None:
    before = status(fleet)[service]
    os.kill(before["pid"], signal.SIGKILL)
    with client(fleet) as http:
        job = placed(http, an_order(), wait=0)
        ended = http.post(f"{job['links']['job']}/wait", params={"timeout": 30}).json()
        assert ended["status"] == "SUCCESS"
        mails_to(fleet, order_of(http, job)["customer"]["email"], 2)
    after = until(lambda: (now := status(fleet)[service])["ready"] and now, f"{service} to be ready again")
    assert after["restarts"] == before["restarts"] + 1
    assert after["pid"] != before["pid"]
    assert f" {service} ended (SIGKILL) after " in said(fleet)


def test_a_killed_broker_is_started_again_and_an_order_meanwhile_is_confirmed(fleet: Fleet) -> None:
    before = state(fleet)["broker"]
    os.kill(before, signal.SIGKILL)
    wish = an_order()
    with client(fleet) as http:
        job = placed(http, wish, wait=0)
        until(lambda: order_of_job(http, job)["status"] == "SUCCESS", "the order to be confirmed")
    mails_to(fleet, wish["customer"]["email"], 2)
    assert "the broker ended; it starts again" in said(fleet)
    after = until(lambda: (now := state(fleet)["broker"]) != before and now, "the broker's new pid")
    assert "beam" in psutil.Process(after).name()
    assert checks(fleet)["ports"] == (True, "all ours or free")


def order_of_job(http: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = http.post(f"{job['links']['job']}/wait", params={"timeout": 5}).json()
    return found


def checks(fleet: Fleet) -> dict[str, tuple[bool, str]]:
    """What the doctor finds once all is ready."""
    until(lambda: all(service["ready"] for service in status(fleet).values()), "all to be ready")
    return {check["what"]: (check["ok"], check["detail"]) for check in json.loads(fleet.malote("doctor", "--json"))}


def test_the_doctor_finds_nothing_wrong_and_says_what_was_looked_at(fleet: Fleet) -> None:
    looked_at = ["python", "disk", "rabbitmq", "postgresql", "pango", "ports", "broker", "topology"]
    looked_at += ["databases", "mail", *sorted(SERVICES), "dead letters"]
    assert [*checks(fleet)] == looked_at
    lines = fleet.malote("doctor").splitlines()
    assert len(lines) == len(looked_at)
    assert not [line for line in lines if line.startswith(("PROBLEM", "CRITICAL"))]


def test_a_broker_that_stands_still_is_named_before_those_who_wait_for_it(fleet: Fleet) -> None:
    pid = state(fleet)["broker"]

    def waiting() -> list[str]:
        found = fleet.command("doctor").stdout.splitlines()
        wrong = [line for line in found if line.startswith(("PROBLEM", "CRITICAL"))]
        return wrong if sum("waits for" in line for line in wrong) == len(SERVICES) else []

    os.kill(pid, signal.SIGSTOP)
    try:
        wrong = until(waiting, "every service to notice", 90)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert wrong[0].startswith(f"CRITICAL broker: its process is stopped: it exists, but does not run: pid {pid}.")
    assert "`malote restart broker`" in wrong[0]
    assert len(wrong) == 1 + len(SERVICES)
    checks(fleet)


def test_secrets_are_their_owners_alone(fleet: Fleet) -> None:
    secret = [data(fleet) / "secrets.json", data(fleet) / "run" / "state.json", data(fleet) / "broker/rabbitmq.conf"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in secret] == [0o600] * 3
    kept = json.loads(secret[0].read_text())
    logs = "".join(path.read_text() for path in (data(fleet) / "logs").glob("*.log"))
    assert [name for name, value in kept.items() if value in logs] == []


def test_each_service_is_connected_to_the_broker_as_its_own_user(fleet: Fleet) -> None:
    administrator = json.loads((data(fleet) / "secrets.json").read_text())["broker.malote"]
    port = fleet.environment["MALOTE_MANAGEMENT_PORT"]
    by_port: dict[int, str] = {}

    def connected() -> bool:
        url = f"http://127.0.0.1:{port}/api/connections"
        found = httpx.get(url, auth=("malote", administrator), trust_env=False).raise_for_status().json()
        by_port.update({connection["peer_port"]: connection["user"] for connection in found if "user" in connection})
        return {*SERVICES} <= {*by_port.values()}

    until(connected, "every service's connection")
    for name, pid in pids(fleet).items():
        sockets = psutil.Process(pid).net_connections("tcp")
        users = {by_port[own.laddr.port] for own in sockets if own.laddr and own.laddr.port in by_port}
        assert users == {name}


def test_a_taken_port_is_named_with_its_holder_and_its_variable(fleet: Fleet, tmp_path: Path) -> None:
    own = own_ports()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        environment = {**fleet.environment, **own, "STOCK_PORT": str(port), "MALOTE_DATA": str(tmp_path)}
        failed = subprocess.run(
            ["make", "up", "DETACH=1"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
        )
    assert failed.returncode != 0
    assert f"port {port} is taken by " in failed.stdout
    assert f"(pid {os.getpid()}); STOCK_PORT={port + 100} moves ours" in failed.stdout
    assert "Traceback" not in failed.stdout + failed.stderr


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("ORDERS_DATABASE_URL", "mysql://db/orders", "starts with sqlite:// or postgresql://, not mysql://"),
        ("ORDERS_DATABASE_URL", "postgresql://me:my-password@127.0.0.1:9/orders", "Connect call failed"),
        ("AMQP_URL", "amqp://me:my-password@127.0.0.1:9/", "connection attempts failed"),
        ("MALOTE_RETRY_LADDER", "1s,soon", "'soon' is not a duration"),
        ("EMAIL_PORT", "smtp", "is not a port"),
    ],
)
def test_a_setting_that_cannot_work_is_named_and_no_password_is_said(
    fleet: Fleet, tmp_path: Path, variable: str, value: str, why: str
) -> None:
    own = own_ports()
    environment = {**fleet.environment, **own, "MALOTE_DATA": str(tmp_path), variable: value}
    failed = subprocess.run(
        ["make", "up", "DETACH=1"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    said = failed.stdout + failed.stderr
    assert failed.returncode != 0
    assert variable in said
    assert why in said
    assert not [word for word in ("Traceback", "my-password", "broker ready") if word in said]


def test_a_killed_supervisor_costs_no_order_and_what_it_left_is_replaced(fleet: Fleet) -> None:
    before = {**pids(fleet), "broker": state(fleet)["broker"], "mail": state(fleet)["mail"]["pid"]}
    fleet.malote("stock", "adjust", sku := "COFFEE-1KG", "1000", "--reason", "delivery")
    with client(fleet) as http:
        pieces = available(http, sku)
    with client(fleet) as http, customers(http, sku) as accepted:
        until(lambda: len(accepted) >= 20, "orders before it")
        os.kill(state(fleet)["supervisor"], signal.SIGKILL)
        fleet.malote("status", expect=3)
        fleet.run("make", "up", "DETACH=1")
        known = len(accepted)
        until(lambda: len(accepted) >= known + 20, "orders after it")
    after = {**pids(fleet), "broker": state(fleet)["broker"], "mail": state(fleet)["mail"]["pid"]}
    assert not {*before.values()} & {*after.values()}
    assert [pid for pid in before.values() if psutil.pid_exists(pid)] == []
    with client(fleet) as http:
        for key, job in accepted.items():
            until(lambda job=job: order_of(http, job)["status"] == "CONFIRMED", f"order {key} to be confirmed")
        assert available(http, sku) == pieces - len(accepted)
    everybody = {f"{key}@example.com": 2 for key in accepted}
    until(lambda: mails_of_each(fleet, everybody) == everybody, "a mail that each order is there, and one how it ended")


def mails_of_each(fleet: Fleet, addresses: Iterable[str]) -> dict[str, int]:
    """How many each got, without those that came twice."""
    box = mailbox.Maildir(fleet.status["mailbox"], lambda file: message_from_binary_file(file, policy=default))
    found = {(str(mail["To"]), str(mail["Message-ID"])) for mail in box}
    return Counter(to for to, _ in found if to in addresses)


@contextlib.contextmanager
def customers(http: httpx.Client, sku: str) -> Iterator[dict[str, dict[str, Any]]]:
    """One customer after another, each asking with its own key until it is answered: jobs, by the key."""
    accepted: dict[str, dict[str, Any]] = {}
    over = threading.Event()

    def come() -> None:
        while not over.is_set():
            key = f"c{uuid7().hex}"
            while key not in accepted:
                with contextlib.suppress(httpx.TransportError):
                    answer = http.post("/v1/orders", json=an_order(sku, customer=key), headers={"Idempotency-Key": key})
                    if answer.is_success:
                        accepted[key] = answer.json()
                    else:
                        assert answer.status_code == 503, answer.text
                over.wait(0.05)

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(come)
        try:
            yield accepted
        finally:
            over.set()
            working.result(60)


def catalogue(http: httpx.Client) -> list[tuple[str, str, int]]:
    products = http.get("/v1/products", params={"limit": 100}).json()["data"]
    return [(product["sku"], product["name"], product["price"]["amount"]) for product in products]


def test_what_was_there_before_a_down_is_there_after_an_up(fleet: Fleet) -> None:
    with client(fleet) as http:
        job, products = placed(http, an_order()), catalogue(http)
    assert fleet.malote("down") == "stopped\n"
    assert processes_of(fleet) == []
    assert fleet.malote("down") == "nothing was running\n"
    assert "not running" in fleet.malote("status", expect=3)
    fleet.run("make", "up", "DETACH=1")
    with client(fleet) as http:
        assert order_of(http, job)["status"] == "CONFIRMED"
        assert catalogue(http) == products
        assert placed(http, an_order())["status"] == "SUCCESS"
