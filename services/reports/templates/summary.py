"""The sales summary as html and pdf: charts and totals."""

import base64
import io
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, timedelta
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

from babel import Locale
from babel.dates import format_date, format_datetime
from babel.numbers import format_compact_decimal, format_decimal, format_percent
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from contracts.reports import COLUMNS, ReportWish
from services.reports.domain import midnight, milliseconds
from services.reports.templates import PangoMissing
from services.reports.templates.tables import read_rows
from shared.money import format_money, format_short_money

TABLE_ROWS = 200
TOP = 8
DAYS_APART = 120
"""The most days that are drawn by day; more are drawn by week."""
Say = Callable[[float], str]
_NAMES = [column.name for column in COLUMNS["sales-summary"]]

WORDS: dict[str, dict[str, str]] = {
    "pt-BR": {
        "title": "Resumo de vendas",
        "all": "Todos os pedidos",
        "since": "Desde {since}",
        "until": "Até {until}",
        "between": "{since} a {until}",
        "zone": "Horário de {zone}",
        "only": "Somente {sku}",
        "lines": "Itens de pedido",
        "pieces": "Unidades vendidas",
        "revenue": "Receita",
        "revenue_in": "Receita em {currency}",
        "rejected": "Itens recusados",
        "note": "Um pedido conta uma vez para cada produto. Unidades e receita não incluem pedidos recusados ou"
        " cancelados.",
        "empty": "Nenhum pedido neste período.",
        "by_day": "Receita por dia ({currency})",
        "by_week": "Receita por semana ({currency})",
        "top": "Produtos com maior receita ({currency})",
        "rejected_by_day": "Itens recusados por dia (% dos itens)",
        "rejected_by_week": "Itens recusados por semana (% dos itens)",
        "about_days": "De {first} a {last}. Maior valor: {most}, em {day}.",
        "about_weeks": "De {first} a {last}. Maior valor: {most}, na semana de {day}.",
        "weeks": "As semanas começam na segunda-feira; a primeira e a última podem estar incompletas.",
        "products": "Por produto",
        "product": "Produto",
        "more": "e mais {number}",
        "page": "Página",
        "of": "de",
    },
    "en": {
        "title": "Sales summary",
        "all": "All orders",
        "since": "Since {since}",
        "until": "Until {until}",
        "between": "{since} to {until}",
        "zone": "Times in {zone}",
        "only": "{sku} only",
        "lines": "Order lines",
        "pieces": "Pieces sold",
        "revenue": "Revenue",
        "revenue_in": "Revenue in {currency}",
        "rejected": "Rejected lines",
        "note": "An order counts once for each of its products. Pieces and revenue are without rejected and cancelled"
        " orders.",
        "empty": "No orders in this period.",
        "by_day": "Revenue per day ({currency})",
        "by_week": "Revenue per week ({currency})",
        "top": "Products by revenue ({currency})",
        "rejected_by_day": "Rejected lines per day (% of lines)",
        "rejected_by_week": "Rejected lines per week (% of lines)",
        "about_days": "From {first} to {last}. Highest: {most}, on {day}.",
        "about_weeks": "From {first} to {last}. Highest: {most}, in the week of {day}.",
        "weeks": "Weeks begin on Monday; the first and the last may be cut short.",
        "products": "By product",
        "product": "Product",
        "more": "and {number} more",
        "page": "Page",
        "of": "of",
    },
}


@dataclass(slots=True)
class Sold:
    """Totals. `lines` counts an order once for each of its products, and so does `rejected`."""

    name: str = ""
    lines: int = 0
    pieces: int = 0
    rejected: int = 0
    revenue: Decimal = Decimal(0)

    def add(self, other: "Sold") -> None:
        self.name = other.name or self.name
        self.lines += other.lines
        self.pieces += other.pieces
        self.rejected += other.rejected
        self.revenue += other.revenue

    @property
    def share(self) -> float:
        """The share of rejected orders; NaN without orders."""
        return self.rejected / self.lines if self.lines else math.nan


@dataclass(slots=True)
class Summary:
    """The totals that the page shows."""

    total: Sold = field(default_factory=Sold)
    days: defaultdict[date, Sold] = field(default_factory=lambda: defaultdict(Sold))
    """Counts over all currencies. Their revenue is meaningless."""
    products: defaultdict[tuple[str, str], Sold] = field(default_factory=lambda: defaultdict(Sold))
    revenue: defaultdict[str, Counter[date]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, row: dict[str, str]) -> None:
        day, revenue = date.fromisoformat(row["day"]), Decimal(row["revenue"] or 0)
        sold = Sold(row["name"], int(row["orders"]), int(row["pieces"]), int(row["rejected_orders"]), revenue)
        for each in (self.total, self.days[day], self.products[row["sku"], row["currency"]]):
            each.add(sold)
        self.revenue[row["currency"]][day] += revenue  # type: ignore[assignment]

    @property
    def is_long(self) -> bool:
        """Whether the charts are drawn by week."""
        return bool(self.days) and (max(self.days) - min(self.days)).days >= DAYS_APART

    def by_week(self) -> "Summary":
        """The days summed by week, each week under its Monday."""
        weekly = Summary(self.total, products=self.products)
        for day, sold in self.days.items():
            weekly.days[_monday(day)].add(sold)
        for currency, days in self.revenue.items():
            for day, revenue in days.items():
                weekly.revenue[currency][_monday(day)] += revenue
        return weekly

    def calendar(self, step: int) -> list[date]:
        """All days from the first to the last in steps, including days without orders."""
        if not self.days:
            return []
        first, last = min(self.days), max(self.days)
        return [first + timedelta(days=number) for number in range(0, (last - first).days + 1, step)]

    def best(self, currency: str) -> list[tuple[str, str, Decimal]]:
        """The products with the most revenue, with their names."""
        found = ((sku, sold) for (sku, paid_in), sold in self.products.items() if paid_in == currency and sold.revenue)
        best = sorted(found, key=lambda item: (-item[1].revenue, item[0]))[:TOP]
        names = Counter(sold.name for _, sold in best)
        return [
            (sku, sold.name if names[sold.name] == 1 and sold.name else f"{sold.name} {sku}".strip(), sold.revenue)
            for sku, sold in best
        ]


def _monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


def gather(parts: Iterable[bytes]) -> Summary:
    """The totals of all rows, with one part in memory at a time."""
    summary = Summary()
    for part in parts:
        for row in read_rows(io.BytesIO(part)):
            summary.add(dict(zip(_NAMES, row, strict=True)))
    return summary


def write(parts: Iterable[bytes], request: ReportWish, target: Path) -> None:
    """Write the page. Raises `PangoMissing`."""
    if request.format == "html":
        target.write_text(page(gather(parts), request), encoding="utf-8")
    else:
        _write_pdf(parts, request, target)


def page(summary: Summary, request: ReportWish) -> str:
    """The page as one html file without further files."""
    language = Language(request.options.locale)
    products = sorted(summary.products.items(), key=lambda item: (item[0][1], -item[1].revenue, item[0]))
    revenue = {currency: sum(days.values()) for currency, days in sorted(summary.revenue.items())}
    return _TEMPLATE.render(
        say=language,
        words=language.words,
        for_print=request.format == "pdf",
        fonts=_fonts() if request.format == "pdf" else "",
        period=language.period(request),
        zone=request.timezone,
        sku=request.filters.sku,
        total=summary.total,
        revenue={currency: amount for currency, amount in revenue.items() if amount} or revenue,
        charts=_charts(summary, language, has_dark=request.format == "html"),
        rankings=_rankings(summary, language),
        is_long=summary.is_long,
        products=products[:TABLE_ROWS],
        more=len(products) - TABLE_ROWS,
    )


class Language:
    """Numbers, money and days as a locale writes them."""

    def __init__(self, locale: str) -> None:
        self.tag = locale
        self.locale = Locale.parse(locale, sep="-")
        self.words = WORDS[locale]

    def number(self, value: int) -> str:
        return format_decimal(value, locale=self.locale)

    def percent(self, value: float) -> str:
        return "\N{EN DASH}" if math.isnan(value) else format_percent(value, "#,##0.0%", locale=self.locale)

    def short_percent(self, value: float) -> str:
        """A label of an axis."""
        return format_percent(value, "#,##0.##%", locale=self.locale)

    def day(self, day: date) -> str:
        return format_date(day, "long", locale=self.locale)

    def money(self, value: Decimal, currency: str) -> str:
        return format_money(value, currency, self.locale)

    def short_money(self, value: Decimal, currency: str) -> str:
        """A label of a chart: large amounts in thousands or millions."""
        if value < 100_000:
            return self.money(value, currency)
        return format_short_money(value, currency, self.locale)

    def short_number(self, value: float) -> str:
        """A label of an axis."""
        if 0 < value < 10 and value != int(value):
            return format_decimal(value, "0.##", locale=self.locale)
        return format_compact_decimal(Decimal(str(value)), locale=self.locale, fraction_digits=1)

    def period(self, request: ReportWish) -> str:
        """The period of the report: as days if it begins and ends at midnight, else with times."""
        zone = ZoneInfo(request.timezone)
        since, until = (at and at.astimezone(UTC).astimezone(zone) for at in (request.since, request.until))
        if all(at is None or milliseconds(at) == midnight(at.date(), request.timezone) for at in (since, until)):
            until = until - timedelta(days=1) if until else None
            said = {"since": since and self.day(since), "until": until and self.day(until)}
        else:
            said = {
                name: at and format_datetime(at, "medium", locale=self.locale)
                for name, at in (("since", since), ("until", until))
            }
        kind = "between" if since and until else "since" if since else "until" if until else "all"
        return self.words[kind].format(**said)


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture for each background, and its description in words."""

    title: str
    light: str
    dark: str
    about: str


def _charts(summary: Summary, language: Language, has_dark: bool) -> list[Chart]:
    """A chart for each currency with revenue, and one for the share of rejected orders."""
    from services.reports.templates import charts

    if not summary.days:
        return []
    first, last = language.day(min(summary.days)), language.day(max(summary.days))
    unit, step = ("week", 7) if summary.is_long else ("day", 1)
    drawn_by = summary.by_week() if summary.is_long else summary
    days, words = drawn_by.calendar(step), language.words
    themes = (charts.LIGHT, charts.DARK) if has_dark else (charts.LIGHT,)

    def chart(title: str, values: list[float], on_axis: Say, say: Say, colour: str) -> Chart:
        pictures = [
            charts.over_time(days, values, on_axis, language.locale, theme, getattr(theme, colour)) for theme in themes
        ]
        uris = ["data:image/svg+xml;base64," + base64.b64encode(picture).decode() for picture in pictures]
        most = max(value for value in values if not math.isnan(value))
        best = language.day(days[values.index(most)])
        about = words[f"about_{unit}s"].format(first=first, last=last, most=say(most), day=best)
        return Chart(title, uris[0], uris[-1], about)

    found = [
        chart(
            words[f"by_{unit}"].format(currency=currency),
            [float(revenue[day]) for day in days],
            language.short_number,
            lambda value, currency=currency: language.money(Decimal(str(value)), currency),  # type: ignore[misc]
            "series",
        )
        for currency, revenue in sorted(drawn_by.revenue.items())
        if any(revenue.values())
    ]
    shares = [drawn_by.days[day].share if day in drawn_by.days else math.nan for day in days]
    title = words[f"rejected_by_{unit}"]
    return [*found, chart(title, shares, language.short_percent, language.percent, "warning")]


@dataclass(frozen=True, slots=True)
class Bar:
    """A product in a ranking; the best one has the share 1."""

    name: str
    said: str
    share: float


def _rankings(summary: Summary, language: Language) -> dict[str, list[Bar]]:
    """A ranking for each currency with revenue, by title. It is text and boxes, not a picture, because a name can be
    long and in any script."""
    return {
        language.words["top"].format(currency=currency): [
            Bar(name, language.short_money(revenue, currency), float(revenue / best[0][2])) for _, name, revenue in best
        ]
        for currency in sorted(summary.revenue)
        if (best := summary.best(currency))
    }


def _write_pdf(parts: Iterable[bytes], request: ReportWish, target: Path) -> None:
    try:
        from weasyprint import HTML
    except OSError as error:  # weasyprint finds no Pango
        raise PangoMissing(
            "A pdf needs Pango, and this machine has none. Install it (Debian, Ubuntu: apt-get install libpango-1.0-0"
            " libpangoft2-1.0-0 libharfbuzz-subset0; macOS: brew install pango), or ask for html."
        ) from error
    from weasyprint.urls import URLFetcher

    os.environ["SOURCE_DATE_EPOCH"] = "0"  # fontTools writes the current time into a font of emojis
    html = HTML(string=page(gather(parts), request), url_fetcher=URLFetcher(allowed_protocols=["data", "file"]))
    html.write_pdf(target, pdf_tags=True, pdf_identifier=b"malote")


def _fonts() -> str:
    """The folder of the fonts in matplotlib's package: a bare machine has no others."""
    import matplotlib

    return (Path(matplotlib.get_data_path()) / "fonts" / "ttf").as_uri()


_TEMPLATE = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
).get_template("summary.html")
