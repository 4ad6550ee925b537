"""What the verdict on a run of chaos is worth: one thing after the other is made wrong, and it has to say so."""

import mailbox
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace as Row
from typing import Any
from uuid import UUID

import pytest

from tests.chaos import verdict
from tests.chaos.shop import FIRST_LEVEL, Wish

ORDER, JOB, LETTER, REPORT = (UUID(int=n) for n in range(1, 5))
SKU, SCARCE = "PLENTY-0", "SCARCE-0"
Rows = dict[str, list[Any]]
Break = Callable[[Any, Rows], object]
NOW = time.time()


@pytest.fixture
def world(tmp_path: Path) -> Any:
    """A run of one order and one poisoned message."""
    wish = Wish("c00001", [(SKU, 2)], job_id=str(JOB), is_accepted=True)
    shop = Row(wishes=[wish], delivered={**FIRST_LEVEL}, prices={sku: [1000] for sku in FIRST_LEVEL})
    office = Row(reports=[str(REPORT)], replays=[])
    box = mailbox.Maildir(tmp_path / "mail", create=True)
    world = Row(
        shop=shop, office=office, fleet=Row(mailbox=tmp_path / "mail"), box=box, email_deaths=[], poison={"poison-1": 1}
    )
    for kind in ("placed", "confirmed"):
        deliver(world, kind)
    return world


def deliver(world: Any, kind: str, ago: float = 30.0) -> None:
    """Put a mail into the box that came so many seconds ago."""
    key = world.box.add(f"Message-ID: <{kind}@malote.example>\n\nhello")
    os.utime(Path(world.box._path) / world.box._lookup(key), (NOW - ago, NOW - ago))


@pytest.fixture
def rows() -> Rows:
    """What the databases have of it, if all went well."""
    ends = {"rejected_at": None, "cancelled_at": None, "confirmed_at": 1}
    line = {"sku": SKU, "quantity": 2, "unit_price": {"amount": 1000, "currency": "BRL"}}
    levels = {**FIRST_LEVEL, SKU: FIRST_LEVEL[SKU] - 2}
    mails = [
        Row(order_id=ORDER, kind=kind, status="SENT", message_id=f"<{kind}@malote.example>")
        for kind in ("placed", "confirmed")
    ]
    passed = [{"message": "order.place.v1"}, {"message": "order.confirmed.v1"}]
    job = Row(id=JOB, kind="order.place", status="SUCCESS", resource_id=ORDER, timeline=passed, ended_at=1)
    report = Row(id=REPORT, kind="report.create", status="SUCCESS", resource_id=None, timeline=[], ended_at=1)
    return {
        "prices": [Row(sku=sku, amount=1000) for sku in FIRST_LEVEL],
        "orders": [Row(id=ORDER, customer_id="c00001", state="CONFIRMED", lines=[line], total=2000, **ends)],
        "reservations": [Row(order_id=ORDER, state="TAKEN")],
        "products": [Row(sku=sku, on_hand=level, reserved=0) for sku, level in levels.items()],
        "jobs": [job, report],
        "mails": mails,
        "reported": [Row(id=ORDER, **ends)],
        "letters": [Row(id=LETTER, lane="stock", message="order.placed.v1", message_id="m", reason="bad")],
        "contents": [Row(letter_id=LETTER, body=b"poison-1 {")],
    }


TABLES = {
    "ListPrice": "prices",
    "Order": "orders",
    "Reservation": "reservations",
    "Product": "products",
    "Job": "jobs",
    "Mail": "mails",
}


@pytest.fixture(autouse=True)
def _databases(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    async def found(_: Any, service: str, table: type) -> list[Any]:
        if service in ("reports", "deadletters"):
            return rows[{"Order": "reported", "Letter": "letters", "Content": "contents"}[table.__name__]]
        return rows[TABLES[table.__name__]]

    monkeypatch.setattr(verdict, "_rows", found)


async def test_nothing_is_said_of_a_run_that_went_well(world: Any) -> None:
    assert await verdict.problems(world) == []


async def test_a_mail_that_came_again_is_excused_where_a_process_of_email_died_just_then(world: Any) -> None:
    deliver(world, "placed")
    world.email_deaths.append((NOW - 35, NOW - 25))
    assert await verdict.problems(world) == []


def first(table: str, **values: Any) -> Break:
    return lambda _, rows: vars(rows[table][0]).update(values)


def again(table: str) -> Break:
    return lambda _, rows: rows[table].append(rows[table][0])


def without(table: str) -> Break:
    return lambda _, rows: rows[table].pop()


LATE_DEATH = (NOW - 10, NOW)
CASES: dict[str, tuple[Break, str]] = {
    "a lost order": (without("orders"), "lost orders: c00001"),
    "an order placed twice": (again("orders"), "placed more than once: c00001"),
    "an order of nobody": (first("orders", customer_id="eve"), "orders of nobody: eve"),
    "an order with another's lines": (
        lambda _, rows: rows["orders"][0].lines[0].update(sku=SCARCE),
        "not what was asked",
    ),
    "an order without an end": (first("orders", state="RESERVED", confirmed_at=None), "without an end"),
    "pieces taken twice": (first("products", on_hand=FIRST_LEVEL[SKU] - 4), f"{SKU}: {FIRST_LEVEL[SKU] - 4} on hand"),
    "pieces set aside for ever": (first("products", reserved=2), "2 reserved in place of"),
    "a delivery counted twice": (lambda w, _: w.shop.delivered.update({SCARCE: 39}), f"{SCARCE}: 40 on hand"),
    "a reservation that is lost": (without("reservations"), "its reservation None"),
    "a reservation that does not fit": (first("reservations", state="RELEASED"), "its reservation RELEASED"),
    "a price that it never had": (lambda w, _: w.shop.prices.update({SKU: [1001]}), "at a price that it never had"),
    "a price that came late": (first("prices", amount=999), "at 999, not 1000"),
    "an order rejected for nothing": (
        first("orders", state="REJECTED", confirmed_at=None, rejected_at=1),
        "rejected, though there was enough",
    ),
    "a report that failed": (lambda _, rows: vars(rows["jobs"][1]).update(status="FAILURE"), "(report.create) is FAIL"),
    "a lost job": (without("jobs"), "jobs are lost"),
    "a job nobody asked for": (first("jobs", id=UUID(int=9)), "jobs nobody asked for"),
    "a job that disagrees": (first("jobs", status="FAILURE"), "(order.place) is FAILURE, its order"),
    "a job that hangs": (first("jobs", status="RUNNING", ended_at=None), "is RUNNING"),
    "a timeline without its end": (first("jobs", timeline=[{"message": "order.place.v1"}]), "has the timeline"),
    "a mail that nobody wrote": (without("mails"), "not ['confirmed', 'placed']"),
    "a mail written twice": (again("mails"), "{'placed': 2"),
    "a mail about no order": (first("mails", order_id=UUID(int=9)), "mails about no order"),
    "a mail that waits for ever": (first("mails", status="PENDING"), "not sent: <placed@"),
    "a mail that never came": (lambda w, _: w.box.clear(), "not in the mailbox"),
    "a mail out of nowhere": (lambda w, _: deliver(w, "ghost"), "though nobody wrote them: <ghost@"),
    "a mail that came twice": (lambda w, _: deliver(w, "placed"), "mails came again"),
    "a mail that came twice before a death": (
        lambda w, _: (deliver(w, "placed"), w.email_deaths.append(LATE_DEATH)),
        "mails came again",
    ),
    "a report that does not know": (first("reported", confirmed_at=None), "reports know of it set()"),
    "a dead letter too many": (first("contents", body=b"a good order"), "nobody poisoned: stock order.placed.v1"),
    "a poisoned message twice": (
        lambda _, rows: (rows["letters"].append(Row(**{**vars(rows["letters"][0]), "id": JOB})),
                         rows["contents"].append(Row(letter_id=JOB, body=b"poison-1 {"))),
        "poison-1: 2 times",
    ),
    "a poisoned message that is lost": (without("letters"), "poison-1: 0 times"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_it_says_what_is_wrong(world: Any, rows: Rows, case: str) -> None:
    break_, expected = CASES[case]
    break_(world, rows)
    assert expected in "\n".join(await verdict.problems(world))
