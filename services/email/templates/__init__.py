"""The texts of mails. Square brackets in a template are evaluated once, when the service starts: they put the layout
around the text. Then the CSS moves into the tags, because mail programs drop style sheets. Curly brackets are evaluated
for each mail.

A kind of mail is a pair of files in each language: `placed.html`, and `placed.txt` whose first line is the subject.
"""

import re
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo

from babel import Locale
from babel.dates import format_date, format_time
from babel.numbers import format_decimal
from css_inline import CSSInliner
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, pass_context
from jinja2.runtime import Context

import contracts.base
from contracts.base import Money, minor_digits
from contracts.reports import ReportKind
from services.email.domain import greeted, one_line, order_number
from shared.money import format_money

Kind = Literal[
    "placed", "confirmed", "rejected", "cancelled", "low_stock", "dead_letters", "report_ready", "report_failed"
]  # fmt: skip
REPORTS: dict[str, dict[ReportKind, str]] = {
    "pt-BR": {
        "orders": "pedidos",
        "order-lines": "itens de pedidos",
        "stock-movements": "movimentos de estoque",
        "sales-summary": "resumo de vendas",
    },
    "en": {
        "orders": "orders",
        "order-lines": "order lines",
        "stock-movements": "stock movements",
        "sales-summary": "sales summary",
    },
}
"""The names of the kinds of reports in each language."""

_HERE = Path(__file__).parent
_TAG = re.compile(r"\{%.*?%\}", re.DOTALL)
_HIDDEN_TAG = re.compile(r"<!--(\{%.*?%\})-->", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Content:
    """The subject and the texts of a mail."""

    subject: str
    text: str
    html: str


def render(kind: Kind, locale: str, *, shop: str, timezone: str, **about: Any) -> Content:
    """Write a mail. `about` is the message that caused it, under the name that the templates use: `order`, `stock`,
    `digest` or `report`."""
    html, text = _TEMPLATES[locale, kind]
    about |= {"shop": shop, "zone": ZoneInfo(timezone)}
    subject, _, body = text.render(about).partition("\n")
    return Content(subject=one_line(subject), text=body.strip() + "\n", html=html.render(about))


@pass_context
def _money(context: Context, money: Money) -> str:
    return _amount(money.amount, money.currency, context["locale"])


# Babel takes long, and an amount is in the text and in the html of a mail, and again in the next mail of its order.
@lru_cache(maxsize=10_000)
def _amount(amount: int, currency: str, locale: Locale) -> str:
    return format_money(Decimal(amount).scaleb(-minor_digits(currency)), currency, locale)


@pass_context
def _day(context: Context, at: datetime) -> str:
    return _date(at.astimezone(context["zone"]).date(), context["locale"])


@lru_cache(maxsize=1_000)
def _date(day: date, locale: Locale) -> str:
    return format_date(day, "long", locale=locale)


@pass_context
def _clock(context: Context, at: datetime) -> str:
    local = at.astimezone(context["zone"])
    return _time(time(local.hour, local.minute), context["locale"])


@pass_context
def _offset(context: Context, at: datetime) -> str:
    ahead = at.astimezone(context["zone"]).strftime("%z")
    return f"UTC{ahead[:3]}:{ahead[3:5]}"


@lru_cache(maxsize=10_000)
def _time(minute: time, locale: Locale) -> str:
    return format_time(minute, "short", locale=locale)


@pass_context
def _number(context: Context, number: int) -> str:
    return _decimal(number, context["locale"])


@lru_cache(maxsize=10_000)
def _decimal(number: int, locale: Locale) -> str:
    return format_decimal(number, locale=locale)


@pass_context
def _size(context: Context, bytes_: int) -> str:
    """A size in decimal units, as download programs show it."""
    size, unit = float(bytes_), "B"
    for larger in ("kB", "MB", "GB"):
        if size >= 1000:
            size, unit = size / 1000, larger
    return f"{format_decimal(size, '#,##0.#', locale=context['locale'])}\N{NO-BREAK SPACE}{unit}"


@pass_context
def _report(context: Context, kind: ReportKind) -> str:
    return REPORTS[context["language"]][kind]


def _load() -> dict[tuple[str, str], tuple[Template, Template]]:
    """Every mail in every language, ready to be filled in."""
    once = Environment(
        block_start_string="[%",
        block_end_string="%]",
        variable_start_string="[[",
        variable_end_string="]]",
        comment_start_string="[#",
        comment_end_string="#]",
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    each = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    each.filters |= {
        "money": _money,
        "day": _day,
        "clock": _clock,
        "offset": _offset,
        "number": _number,
        "size": _size,
        "report": _report,
        "greeted": greeted,
        "short": order_number,
    }
    found = {}
    for locale in get_args(contracts.base.Locale):
        known = {"locale": Locale.parse(locale, sep="-"), "language": locale}
        for kind in get_args(Kind):
            html = _inlined(once.get_template(f"{locale}/{kind}.html").render(language=locale, kind=kind))
            text = once.get_template(f"{locale}/{kind}.txt").render()
            plain = f"{{% autoescape false %}}{text}{{% endautoescape %}}"
            found[locale, kind] = each.from_string(html, known), each.from_string(plain, known)
    return found


def _inlined(html: str) -> str:
    """Move the CSS into the tags; only `@media` stays. `{% %}` is kept in comments, because an HTML parser moves any
    other text between table rows out of the table."""
    inliner = CSSInliner(keep_at_rules=True, load_remote_stylesheets=False)
    return _HIDDEN_TAG.sub(r"\1", inliner.inline(_TAG.sub(r"<!--\g<0>-->", html)))


_TEMPLATES = _load()
