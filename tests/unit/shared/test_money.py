"""Money as people read it."""

from decimal import Decimal

import pytest
from babel import Locale

from contracts.base import CURRENCIES
from shared.money import format_money, format_short_money


@pytest.mark.parametrize(
    ("locale", "currency", "amount", "expected"),
    [
        ("en", "BRL", "69.90", "R$69.90"),
        ("en", "USD", "1234.5", "$1,234.50"),
        ("en", "KWD", "1234.567", "KWD 1,234.567"),
        ("en", "CLP", "123450", "CLP 123,450"),
        ("en", "CHF", "-5", "-CHF 5.00"),
        ("pt_BR", "BRL", "69.90", "R$ 69,90"),
        ("pt_BR", "KWD", "1234.567", "KWD 1.234,567"),
        ("pt_BR", "JPY", "125000", "JP¥ 125.000"),
    ],
)
def test_an_amount_has_its_currencys_digits_and_its_locales_blanks(
    locale: str, currency: str, amount: str, expected: str
) -> None:
    assert format_money(Decimal(amount), currency, Locale.parse(locale)).replace("\xa0", " ") == expected


@pytest.mark.parametrize("locale", ["en", "pt_BR"])
def test_no_code_stands_against_a_digit(locale: str) -> None:
    for currency in CURRENCIES:
        for written in (format_money, format_short_money):
            text = written(Decimal(1_250_000), currency, Locale.parse(locale))
            first = next(at for at, char in enumerate(text) if char.isdigit())
            assert not text[first - 1].isalpha(), text
