"""What the demo calls a good end, and what it calls a problem."""

from typing import Any

import pytest

from deploy.cli import demo
from deploy.cli.demo import CANCELLED, ORDINARY, SHOP, SPECIAL, TOO_MUCH, TWICE, Case


def a_case(what: str, status: str, mails: list[str], **order: Any) -> Case:
    """An order that was sent and looked up, with its job."""
    case = Case(what, {"customer": {"id": "c"}, "lines": []}, ids={"o"}, job_id="j")
    times = {"placed_at": "2026-11-02T14:30:00Z", f"{status.lower()}_at": "2026-11-02T14:30:00.250000Z"}
    case.found = {"o": {"id": "o", "status": status, "reason": None, **times, **order}}
    case.job = {"status": {"CONFIRMED": "SUCCESS", "REJECTED": "FAILURE"}.get(status, status), "error": None}
    case.mails = mails
    return case


def a_product(sku: str, available: int) -> dict[str, Any]:
    return {"sku": sku, "available": available, "price": {"amount": 100, "currency": "BRL"}}


def test_an_order_that_went_as_it_should_has_no_problems() -> None:
    assert a_case(ORDINARY, "CONFIRMED", ["placed", "confirmed"]).problems() == []
    assert a_case(TOO_MUCH, "REJECTED", ["placed", "rejected"], reason="out_of_stock").problems() == []


@pytest.mark.parametrize("mails", [["placed", "cancelled"], ["placed", "confirmed", "cancelled"]])
def test_an_order_may_be_confirmed_before_it_is_cancelled(mails: list[str]) -> None:
    case = a_case(CANCELLED, "CANCELLED", mails)
    case.cancel_job = {"status": "SUCCESS"}
    assert case.problems() == []


def test_a_confirmed_order_that_is_to_be_cancelled_has_not_ended() -> None:
    assert not a_case(CANCELLED, "CONFIRMED", []).has_ended
    assert a_case(ORDINARY, "CONFIRMED", []).has_ended


def test_the_time_that_an_order_took_is_its_own() -> None:
    assert a_case(ORDINARY, "CONFIRMED", []).seconds == 0.25


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (a_case(ORDINARY, "REJECTED", ["placed", "rejected"]), "is REJECTED, not CONFIRMED"),
        (a_case(ORDINARY, "CONFIRMED", ["placed"]), "has the mails placed"),
        (a_case(ORDINARY, "CONFIRMED", ["placed", "confirmed", "cancelled"]), "has the mails"),
        (a_case(TOO_MUCH, "REJECTED", ["placed", "rejected"], reason="unknown_sku"), "was rejected for unknown_sku"),
        (a_case(CANCELLED, "CANCELLED", ["placed", "cancelled"]), "has a cancellation that is None"),
        (Case(SHOP, {}), "is not sent, not CONFIRMED"),
    ],
)
def test_an_order_that_went_wrong_says_how(case: Case, said: str) -> None:
    assert any(said in problem for problem in case.problems())


def test_one_key_that_made_two_orders_is_a_problem() -> None:
    case = a_case(TWICE, "CONFIRMED", ["placed", "confirmed"])
    case.found["other"], case.ids = case.found["o"], {"o", "other"}
    assert case.problems() == ["is 2 orders", "was given 2 ids"]


def test_mails_have_to_be_in_the_mailbox_once() -> None:
    case = a_case(ORDINARY, "CONFIRMED", ["placed", "confirmed"])
    case.lost_mails, case.doubled_mails = 1, 1
    assert not case.has_all_mails
    assert len(case.problems()) == 2


@pytest.mark.parametrize("available", [0, 3, 9_999, 10_000, 123_456])
def test_more_than_is_left_is_more_than_is_left(available: int) -> None:
    products = [a_product("PLENTY", 1_000_000), a_product("RARE", available)]
    cases = demo._cases(products, "run")
    assert [case.what for case in cases[:5]] == [*SPECIAL, ORDINARY]
    assert len(cases) == len({case.request["customer"]["email"] for case in cases}) == 50
    assert sum(line["quantity"] for line in cases[0].request["lines"]) > available
    assert all(line["sku"] == "PLENTY" for case in cases[1:] for line in case.request["lines"])
