"""A made-up past could have happened: contracts hold, no level falls below zero; and it can be repeated."""

import json
from collections import Counter, defaultdict
from datetime import UTC, datetime
from random import Random
from typing import Any
from uuid import UUID

import pytest
from pydantic import TypeAdapter

from contracts.http.stock import HIGHEST_PRICE
from contracts.orders import Customer, OrderedLine, PricedLine, RejectedLine
from contracts.stock import StockAdjusted
from deploy.local.history import COLUMNS, HOUR, History, customers, dashed, products, uuid7

UNTIL = datetime(2026, 11, 2, 12, tzinfo=UTC)
NUMBER, DAYS = 3_000, 90
Row = dict[str, Any]
rejected_lines = TypeAdapter(tuple[RejectedLine, ...])


def past(seed: int = 1, number: int = NUMBER, size: int = 1_000) -> dict[str, list[Row]]:
    """All rows by table, and the changes of the levels under `levels`."""
    found: dict[str, list[Row]] = defaultdict(list)
    for rows in History(number, DAYS, seed, UNTIL, products()).chunks(size):
        for table, columns in COLUMNS.items():
            found[table] += [dict(zip(columns, row, strict=True)) for row in getattr(rows, table)]
        found["levels"].append(dict(rows.levels))
    return found


@pytest.fixture(scope="module")
def shop() -> dict[str, list[Row]]:
    return past()


def test_the_same_arguments_give_the_same_past(shop: dict[str, list[Row]]) -> None:
    again = past(size=NUMBER)
    assert {table: again[table] for table in COLUMNS} == {table: shop[table] for table in COLUMNS}
    assert past(seed=2)["orders"] != shop["orders"]


@pytest.mark.parametrize("number", [1, 7, 999])
def test_there_are_as_many_orders_as_were_asked_for(number: int) -> None:
    assert len(past(number=number)["orders"]) == number


def test_orders_of_every_fate_are_there_and_most_are_confirmed(shop: dict[str, list[Row]]) -> None:
    states = Counter(order["state"] for order in shop["orders"])
    assert set(states) == {"CONFIRMED", "CANCELLED", "REJECTED", "PLACED"}
    assert states["CONFIRMED"] > 0.8 * NUMBER
    reasons = {order["reason"] for order in shop["orders"]} - {None}
    assert reasons == {"out_of_stock", "unknown_sku", "currency_mismatch"}


def test_orders_come_one_after_the_other_with_ids_that_fit_their_times(shop: dict[str, list[Row]]) -> None:
    times = [order["placed_at"] for order in shop["orders"]]
    end = UNTIL.timestamp() * 1000
    assert times == sorted(times)
    assert end - DAYS * 24 * HOUR <= times[0] < times[-1] < end
    for order in shop["orders"]:
        id_ = UUID(order["id"])
        assert (id_.version, id_.variant, id_.int >> 80) == (7, UUID(int=0, version=4).variant, order["placed_at"])
    assert len({order["id"] for order in shop["orders"]}) == NUMBER


def test_every_order_is_one_that_the_contracts_allow(shop: dict[str, list[Row]]) -> None:
    for order in shop["orders"]:
        Customer.model_validate_json(order["customer"])
        rejected_lines.validate_json(order["rejected_lines"])
        kind = OrderedLine if order["total"] is None else PricedLine
        lines = [kind.model_validate(line) for line in json.loads(order["lines"])]
        if order["total"] is not None:
            assert sum(line.total.amount for line in lines if line.total) == order["total"]
    for entry in shop["adjustments"]:
        given = {name: entry[name] for name in ("sku", "delta", "reason", "adjusted_by")}
        StockAdjusted(adjustment_id=UUID(entry["id"]), adjusted_at=UNTIL, **given)


def test_no_level_is_ever_below_zero_and_an_order_is_rejected_for_the_level_that_it_met(
    shop: dict[str, list[Row]],
) -> None:
    asked = {
        order["id"]: {line["sku"]: line for line in json.loads(order["rejected_lines"])}
        for order in shop["orders"]
        if order["reason"] == "out_of_stock"
    }
    happened = [(row["moved_at"], row["on_hand"], row["reserved"], row["sku"]) for row in shop["read_movements"]]
    for order in shop["orders"]:
        happened += [(order["placed_at"], 0, 0, line) for line in asked.get(order["id"], {}).values()]
    levels: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    # At the same moment what comes is first: it is what an order that goes through has met.
    for _, on_hand, reserved, what in sorted(happened, key=lambda each: (each[0], -each[1])):
        if isinstance(what, dict):
            assert what["available"] < what["quantity"]
            continue
        levels[what][0] += on_hand
        levels[what][1] += reserved
        assert levels[what][0] >= levels[what][1] >= 0, what


def test_the_changes_of_the_levels_are_what_the_movements_add_up_to(shop: dict[str, list[Row]]) -> None:
    moved: Counter[tuple[str, int]] = Counter()
    for row in shop["read_movements"]:
        moved[row["sku"], 0] += row["on_hand"]
        moved[row["sku"], 1] += row["reserved"]
    changed: Counter[tuple[str, int]] = Counter()
    for levels in shop["levels"]:
        for sku, (on_hand, reserved) in levels.items():
            changed[sku, 0] += on_hand
            changed[sku, 1] += reserved
    assert {key: n for key, n in changed.items() if n} == {key: n for key, n in moved.items() if n}
    assert sum(n for (_, which), n in moved.items() if which) > 0, "some orders wait for their confirmation"


def test_nothing_happens_after_the_end(shop: dict[str, list[Row]]) -> None:
    end = UNTIL.timestamp() * 1000
    assert max(order["cancelled_at"] or 0 for order in shop["orders"]) < end
    assert max(row["moved_at"] for row in shop["read_movements"]) < end + HOUR


def test_names_are_of_here_and_some_are_hard_on_files() -> None:
    people = customers(2_000, Random(1))
    names = {person.name for person in people}
    assert "=SUM(A1)" in names
    assert any("ã" in name for name in names)
    for person in people:
        assert Customer.model_validate_json(person.json).name == person.name


def test_what_is_sold_fits_the_contracts() -> None:
    assert len({product.sku for product in products()}) == len(products())
    for product in products():
        OrderedLine(sku=product.sku, name=product.name, quantity=1)
        assert 0 < product.price <= HIGHEST_PRICE


def test_an_id_is_written_with_dashes_as_everywhere() -> None:
    id_ = uuid7(1_762_000_000_000, Random(1))
    assert dashed(id_) == str(UUID(id_))
