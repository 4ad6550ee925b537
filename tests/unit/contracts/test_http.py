"""What HTTP takes in, before anything is done with it."""

from typing import Any

import pytest
from babel.core import get_global
from babel.numbers import list_currencies
from pydantic import ValidationError
from uuid_utils.compat import uuid7

from contracts.base import _DIGITS, CURRENCIES, Money
from contracts.deadletters import EditLetter
from contracts.http.deadletters import EditWish, PurgeWish, ReplayWish
from contracts.http.orders import OrderIn
from contracts.http.stock import Price
from contracts.orders import PlaceOrder

ORDER: dict[str, Any] = {
    "customer": {"id": "ana", "name": "Ana Souza", "email": "ana@example.com"},
    "currency": "BRL",
    "lines": [{"sku": "A", "quantity": 1}],
}


def test_a_body_that_no_message_can_carry_is_refused_where_it_comes_in() -> None:
    with pytest.raises(ValidationError, match="half of a surrogate pair"):
        EditWish.model_validate({"body": {"deep": ["\ud800"]}})
    assert EditWish.model_validate({"body": {"deep": ["😀"]}}).body == {"deep": ["😀"]}


def nested(levels: int) -> dict[str, Any]:
    return {"x": nested(levels - 1)} if levels else {}


def test_what_is_nested_deeper_than_its_consumer_can_read_is_refused_where_it_comes_in() -> None:
    for levels in (50, 200, 900):
        with pytest.raises(ValidationError, match="nested more than 50 levels deep"):
            EditWish.model_validate({"body": nested(levels)})
    body = EditWish.model_validate({"body": nested(49)}).body
    edit = EditLetter(letter_id=uuid7(), message="order.placed.v1", body=body, by="olga")
    assert EditLetter.read(edit.model_dump_json().encode()) == edit


@pytest.mark.parametrize("code", ["PME", "XXX", "XAU", "BRX", "brl"])
def test_a_currency_that_does_not_exist_is_refused_where_it_comes_in(code: str) -> None:
    with pytest.raises(ValidationError):
        Price.model_validate({"amount": 100, "currency": code})
    with pytest.raises(ValidationError):
        OrderIn.model_validate({**ORDER, "currency": code})


def test_what_was_priced_in_a_currency_that_does_not_exist_stays_readable() -> None:
    assert Money.model_validate({"amount": 100, "currency": "PME"}).currency == "PME"
    assert PlaceOrder.model_validate({**ORDER, "order_id": uuid7(), "currency": "PME"}).currency == "PME"


def test_every_currency_that_is_somebodys_money_now_is_known() -> None:
    tender = {
        code
        for history in get_global("territory_currencies").values()
        for code, _, until, is_tender in history
        if is_tender and until is None
    }
    assert tender <= CURRENCIES
    assert {code for code in CURRENCIES if code not in list_currencies()} == set()


def test_minor_units_are_told_of_currencies_that_exist() -> None:
    assert {code for codes in _DIGITS.values() for code in codes.split()} <= CURRENCIES


@pytest.mark.parametrize("wish", [PurgeWish, ReplayWish])
@pytest.mark.parametrize("value", ["0", "0.0", "1", '"false"', "null"])
def test_what_is_no_boolean_is_not_taken_for_one(wish: type[PurgeWish | ReplayWish], value: str) -> None:
    with pytest.raises(ValidationError, match="all"):
        wish.model_validate_json(f'{{"ids": ["01890000-0000-7000-8000-000000000000"], "all": {value}}}')
