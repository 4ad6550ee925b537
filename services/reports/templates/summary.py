"""The sales summary as a page: what was sold, drawn and added up, as html and pdf."""

import base64
import io
import math
from collections import Counter, defaultdict
from collections.abc import Iterable
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
        "top": "Produtos com maior receita ({currency})",
        "rejected_by_day": "Itens recusados por dia (% dos itens)",
        "about_days": "De {first} a {last}. Maior valor: {most}, em {day}.",
        "about_top": "{sku}: {value}",
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
        "top": "Products by revenue ({currency})",
        "rejected_by_day": "Rejected lines per day (% of lines)",
        "about_days": "From {first} to {last}. Highest: {most}, on {day}.",
        "about_top": "{sku}: {value}",
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

    def add(self, row: dict[str, str]) -> None:
        self.name = row["name"] or self.name
        self.lines += int(row["orders"])
        self.pieces += int(row["pieces"])
        self.rejected += int(row["rejected_orders"])
        self.revenue += Decimal(row["revenue"] or 0)

    @property
    def share(self) -> float:
        """Rejected, of all; NaN of none."""
        return self.rejected / self.lines if self.lines else math.nan


@dataclass(slots=True)
class Summary:
    """The rows added up, by what the page shows."""

    total: Sold = field(default_factory=Sold)
    days: defaultdict[date, Sold] = field(default_factory=lambda: defaultdict(Sold))
    products: defaultdict[tuple[str, str], Sold] = field(default_factory=lambda: defaultdict(Sold))
    revenue: defaultdict[str, Counter[date]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, row: dict[str, str]) -> None:
        day = date.fromisoformat(row["day"])
        for sold in (self.total, self.days[day], self.products[row["sku"], row["currency"]]):
            sold.add(row)
        self.revenue[row["currency"]][day] += Decimal(row["revenue"] or 0)  # type: ignore[assignment]

    def calendar(self) -> list[date]:
        """Every day from the first to the last, with those on which nothing was ordered."""
        if not self.days:
            return []
        first, last = min(self.days), max(self.days)
        return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def gather(parts: Iterable[bytes]) -> Summary:
    """Add up all rows, a part in memory at a time."""
    summary = Summary()
    for part in parts:
        for row in read_rows(io.BytesIO(part)):
            summary.add(dict(zip(_NAMES, row, strict=True)))
    return summary


def write(parts: Iterable[bytes], wish: ReportWish, target: Path) -> None:
    """Write the page. Raises `PangoMissing`."""
    if wish.format == "html":
        target.write_text(page(gather(parts), wish), encoding="utf-8")
    else:
        _write_pdf(parts, wish, target)


def page(summary: Summary, wish: ReportWish) -> str:
    """The page as one html file that needs nothing else."""
    language = Language(wish.options.locale)
    products = sorted(summary.products.items(), key=lambda item: (item[0][1], -item[1].revenue, item[0]))
    revenue = {currency: sum(days.values()) for currency, days in sorted(summary.revenue.items())}
    return _TEMPLATE.render(
        say=language,
        words=language.words,
        for_print=wish.format == "pdf",
        fonts=_fonts() if wish.format == "pdf" else "",
        period=language.period(wish),
        zone=wish.timezone,
        sku=wish.filters.sku,
        total=summary.total,
        revenue={currency: amount for currency, amount in revenue.items() if amount} or revenue,
        charts=_charts(summary, language, has_dark=wish.format == "html"),
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
        """For an axis."""
        return format_percent(value, "#,##0.##%", locale=self.locale)

    def day(self, day: date) -> str:
        return format_date(day, "long", locale=self.locale)

    def money(self, value: Decimal, currency: str) -> str:
        return format_money(value, currency, self.locale)

    def short_money(self, value: Decimal, currency: str) -> str:
        """For a chart: large amounts in thousands or millions."""
        if value < 100_000:
            return self.money(value, currency)
        return format_short_money(value, currency, self.locale)

    def short_number(self, value: float) -> str:
        """For an axis."""
        if 0 < value < 10 and value != int(value):
            return format_decimal(value, "0.##", locale=self.locale)
        return format_compact_decimal(Decimal(str(value)), locale=self.locale, fraction_digits=1)

    def period(self, wish: ReportWish) -> str:
        """What was asked for, in whole days if it is; a day ends where the next one begins."""
        zone = ZoneInfo(wish.timezone)
        since, until = (at and at.astimezone(UTC).astimezone(zone) for at in (wish.since, wish.until))
        if all(at is None or milliseconds(at) == midnight(at.date(), wish.timezone) for at in (since, until)):
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
    """A picture for each background, and the same in words."""

    title: str
    light: str
    dark: str
    about: str


def _charts(summary: Summary, language: Language, has_dark: bool) -> list[Chart]:
    """Two for each currency that has brought something, and the rejected share."""
    from services.reports.templates import charts

    days, words, drawn = summary.calendar(), language.words, []
    themes = (charts.LIGHT, charts.DARK) if has_dark else (charts.LIGHT,)

    def add(title: str, about: str, pictures: list[bytes]) -> None:
        uris = ["data:image/svg+xml;base64," + base64.b64encode(picture).decode() for picture in pictures]
        drawn.append(Chart(title, uris[0], uris[-1], about))

    def about_days(best: date, most: str) -> str:
        ends = {"first": language.day(days[0]), "last": language.day(days[-1])}
        return words["about_days"].format(**ends, most=most, day=language.day(best))

    for currency, revenue in sorted(summary.revenue.items()):
        top = sorted(
            ((sold.revenue, sku) for (sku, paid_in), sold in summary.products.items() if paid_in == currency),
            key=lambda item: (-item[0], item[1]),
        )
        top = [(value, sku) for value, sku in top[:TOP] if value]
        if not top:
            continue
        best = max(days, key=lambda day: revenue[day])
        add(
            words["by_day"].format(currency=currency),
            about_days(best, language.money(Decimal(revenue[best]), currency)),
            [
                charts.by_day(
                    days,
                    [float(revenue[day]) for day in days],
                    language.short_number,
                    language.locale,
                    theme,
                    theme.series,
                )
                for theme in themes
            ],
        )
        said = {value: language.short_money(value, currency) for value, _ in top}
        add(
            words["top"].format(currency=currency),
            "; ".join(words["about_top"].format(sku=sku, value=said[value]) for value, sku in top),
            [
                charts.ranking(
                    [sku for _, sku in top],
                    [float(value) for value, _ in top],
                    [said[value] for value, _ in top],
                    theme,
                )
                for theme in themes
            ],
        )
    if days:
        shares = [summary.days[day].share if day in summary.days else math.nan for day in days]
        best = max(summary.days, key=lambda day: (summary.days[day].share, -day.toordinal()))
        add(
            words["rejected_by_day"],
            about_days(best, language.percent(summary.days[best].share)),
            [
                charts.by_day(days, shares, language.short_percent, language.locale, theme, theme.warning)
                for theme in themes
            ],
        )
    return drawn


def _write_pdf(parts: Iterable[bytes], wish: ReportWish, target: Path) -> None:
    try:
        from weasyprint import HTML
    except OSError as error:  # it finds no Pango
        raise PangoMissing(
            "A pdf needs Pango, and this machine has none. Install it (Debian, Ubuntu: apt-get install libpango-1.0-0"
            " libpangoft2-1.0-0 libharfbuzz-subset0; macOS: brew install pango), or ask for html."
        ) from error
    from weasyprint.urls import URLFetcher

    html = HTML(string=page(gather(parts), wish), url_fetcher=URLFetcher(allowed_protocols=["data", "file"]))
    html.write_pdf(target, pdf_tags=True, pdf_identifier=b"malote")


def _fonts() -> str:
    """The folder of the fonts that matplotlib brings along: a bare machine has no others."""
    import matplotlib

    return (Path(matplotlib.get_data_path()) / "fonts" / "ttf").as_uri()


_TEMPLATE = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
).get_template("summary.html")
