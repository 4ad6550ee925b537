"""Money for people: with the digits that ISO 4217 gives the currency, and the signs and blanks of the locale.

In a module of its own, because only texts for people need Babel.
"""

import re
import unicodedata
from decimal import Decimal

from babel import Locale
from babel.numbers import format_compact_currency, format_currency, get_currency_symbol

from contracts.base import minor_digits

NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"


def format_money(amount: Decimal, currency: str, locale: Locale) -> str:
    """An amount in major units. CLDR has other digits than ISO 4217 for some currencies."""
    digits = minor_digits(currency)
    pattern = locale.currency_formats["standard"].pattern.replace(".00", f".{'0' * digits}" if digits else "")
    return _spaced(format_currency(amount, currency, pattern, locale, currency_digits=False), currency, locale)


def format_short_money(amount: Decimal, currency: str, locale: Locale) -> str:
    """A large amount in thousands or millions, with one digit after the point."""
    return _spaced(format_compact_currency(amount, currency, locale=locale, fraction_digits=1), currency, locale)


def _spaced(text: str, currency: str, locale: Locale) -> str:
    """A pattern with a blank between a currency's letters and the amount (`KWD 1.000`, but `R$1.00`), as CLDR demands
    (UTS 35, part 3, `currencySpacing`). Babel lacks that rule."""
    symbol = get_currency_symbol(currency, locale)
    if unicodedata.category(symbol[-1]).startswith(("S", "Z")):
        return text
    return re.sub(rf"(?<={re.escape(symbol)})(?=\d)", NO_BREAK_SPACE, text)
