"""The sales summary's page: what it says in both languages, and what its pictures show."""

import base64
import html
import importlib.abc
import io
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from pypdf import PdfReader

from contracts.reports import ReportWish
from deploy.local import install
from services.reports.templates import PangoMissing, assemble
from services.reports.templates.summary import Language
from tests.browser import browser

Row = tuple[str, ...]
FIRST = date(2026, 1, 1)
MONTH: dict[str, Any] = {"from": "2026-01-01T00:00:00", "to": "2026-02-01T00:00:00"}
LONG_SKU = "W" * 40
DECEMBER: list[Row] = [
    ("2026-01-01", "COFFEE_1KG", "Café $x_1$, 1 kg", "BRL", "4", "9", "123456.70", "1", "0.2500"),
    ("2026-01-03", "COFFEE_1KG", "Café $y_2$, 1 kg", "BRL", "6", "5", "43.30", "3", "0.5000"),
    ("2026-01-03", LONG_SKU, "<script>alert(1)</script> & ☕", "BRL", "10", "1000", "1000.00", "0", "0.0000"),
]


@pytest.fixture(scope="module")
def _pango() -> None:
    if not install.pango():
        pytest.skip("this machine has no Pango, and we may not install it")


def written(rows: Sequence[Row], target: Path, format_: str = "html", locale: str = "en", **about: Any) -> bytes:
    wish = {"kind": "sales-summary", "format": format_, "options": {"locale": locale}} | about
    lines = (",".join('"' + field.replace('"', '""') + '"' for field in row) + "\n" for row in rows)
    assemble([line.encode() for line in lines], ReportWish.model_validate(wish), target)
    return target.read_bytes()


def page(rows: Sequence[Row], target: Path, locale: str = "en", **about: Any) -> str:
    return written(rows, target, "html", locale, **about).decode()


def flat(text: str) -> str:
    """What is read, with ordinary blanks."""
    body = re.sub(r"<(style|title)\b.*?</\1>", "", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def pictures(text: str) -> list[str]:
    """The charts as SVG, light before dark."""
    found = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]+)"', text)
    dark = re.findall(r'srcset="data:image/svg\+xml;base64,([^"]+)"', text)
    assert len(found) == len(dark)
    return [base64.b64decode(picture).decode() for picture in [*found, *dark]]


def labels(picture: str) -> list[str]:
    """The texts of a chart: matplotlib notes them beside their outlines."""
    ElementTree.fromstring(picture)
    return [" ".join(html.unescape(text).split()) for text in re.findall(r"<!-- (.*?) -->", picture)]


def letters(tree: ElementTree.Element) -> Iterator[tuple[float, float]]:
    """Where each letter of a chart begins, in points from its upper left corner."""
    for group in tree.iter("{http://www.w3.org/2000/svg}g"):
        if moved := re.fullmatch(
            r"translate\(([\d.-]+) ([\d.-]+)\) scale\(([\d.-]+) [\d.-]+\)", group.get("transform") or ""
        ):
            x, y, scale = map(float, moved.groups())
            for use in group.iter("{http://www.w3.org/2000/svg}use"):
                inner = re.search(r"translate\(([\d.-]+)", use.get("transform") or "")
                yield x + scale * float(inner[1] if inner else use.get("x") or 0), y


def many(days: int, currencies: Sequence[str] = ("BRL",)) -> list[Row]:
    return [
        (str(FIRST + timedelta(days=day)), f"SKU-{currency}", "Name", currency, "4", "3", str(1000 + day), "1", "0.25")
        for day in range(days)
        for currency in currencies
    ]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "report"


def test_the_totals_are_those_of_the_rows(target: Path) -> None:
    text = flat(page(DECEMBER, target, "en", **MONTH))
    assert "Sales summary January 1, 2026 to January 31, 2026 Times in America/Sao_Paulo" in text
    assert "Revenue in BRL R$124,500.00 Pieces sold 1,014 Order lines 20 Rejected lines 20.0%" in text
    assert "COFFEE_1KG Café $y_2$, 1 kg R$123,500.00 14 10 40.0%" in text
    text = flat(page(DECEMBER, target, "pt-BR", **MONTH))
    assert "Resumo de vendas 1 de janeiro de 2026 a 31 de janeiro de 2026 Horário de America/Sao_Paulo" in text
    assert "Receita em BRL R$ 124.500,00 Unidades vendidas 1.014 Itens de pedido 20 Itens recusados 20,0%" in text


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({}, "All orders"),
        ({"from": "2026-01-05T00:00:00"}, "Since January 5, 2026"),
        ({"to": "2026-01-05T00:00:00"}, "Until January 4, 2026"),
        ({"from": "2026-01-05T12:30:00-03:00", "to": "2026-01-06T00:00:00"}, "Jan 5, 2026, 12:30:00 PM to Jan 6, 2026"),
        ({"from": "2026-01-05T03:00:00Z", "to": "2026-01-06T03:00:00Z"}, "January 5, 2026 to January 5, 2026"),
        ({"filters": {"sku": "MUG"}}, "All orders · MUG only"),
    ],
)
def test_the_period_is_said_as_it_was_asked_for(about: dict[str, Any], said: str, target: Path) -> None:
    assert said in flat(page(DECEMBER, target, **about))


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("America/Santiago", "2026-09-06"),
        ("Africa/Cairo", "2026-04-24"),
        ("Asia/Beirut", "2026-03-29"),
        ("America/Havana", "2026-03-08"),
        ("America/Sao_Paulo", "2018-11-04"),
        ("America/Sao_Paulo", "2018-02-18"),  # the evening before has an hour twice
    ],
)
def test_a_day_is_a_day_though_its_clocks_began_at_one(zone: str, day: str, target: Path) -> None:
    before, after = (date.fromisoformat(day) + timedelta(days=days) for days in (-1, 1))
    for since, until in [(date.fromisoformat(day), after), (before, date.fromisoformat(day))]:
        wish = ReportWish.model_validate(
            {"kind": "sales-summary", "format": "html", "timezone": zone}
            | {"from": f"{since}T00:00:00", "to": f"{until}T00:00:00"}
        )
        sent = ReportWish.model_validate_json(wish.model_dump_json())  # as the service reads it: with offsets
        said = f"{since:%B} {since.day}, {since.year}"
        assert Language("en").period(wish) == Language("en").period(sent) == f"{said} to {said}"


def test_a_midnight_that_comes_twice_begins_the_day_once() -> None:
    """In Havana, clocks go back from one to midnight: the second one is an hour into the day."""
    asked = {"kind": "sales-summary", "format": "html", "timezone": "America/Havana"}
    first, second = (
        Language("en").period(ReportWish.model_validate(asked | {"from": f"2026-11-01T00:00:00-0{hours}:00"}))
        for hours in (4, 5)
    )
    assert first == "Since November 1, 2026"
    assert second.startswith("Since Nov 1, 2026, 12:00:00")


@pytest.mark.parametrize(("locale", "empty"), [("en", "No orders in this period."), ("pt-BR", "Nenhum pedido neste")])
def test_without_orders_it_says_so(locale: str, empty: str, target: Path) -> None:
    text = page([], target, locale, **MONTH)
    assert empty in text
    assert "<img" not in text


def test_it_is_one_file_for_every_screen(target: Path) -> None:
    text = page(DECEMBER, target, "pt-BR")
    assert '<html lang="pt-BR">' in text
    assert "width=device-width" in text
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"""(?:src|srcset|href)="(?!data:)|url\(|@import|<script|<link""", text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; ☕" in text
    assert len(re.findall(r'alt="[^"]{20,}"', text)) == text.count("<img") == 2


def test_axes_are_labelled_in_the_language(target: Path) -> None:
    by_day, rejected, *dark = (labels(picture) for picture in pictures(page(DECEMBER, target, "pt-BR")))
    assert by_day == ["1 de jan.", "2 de jan.", "3 de jan.", "0", "50 mil", "100 mil"]
    assert rejected == ["1 de jan.", "2 de jan.", "3 de jan.", "0%", "10%", "20%"]
    assert dark == [by_day, rejected]
    by_day, *_ = (labels(picture) for picture in pictures(page(DECEMBER, target, "en")))
    assert by_day == ["Jan 1", "Jan 2", "Jan 3", "0", "50K", "100K"]


def ranking(text: str) -> list[tuple[str, str, float]]:
    """The best products as the page ranks them: name, amount, width of the bar in percent."""
    bars = re.findall(r'"name">(.*?)</span>.*?"value">(.*?)</span>.*?width: ([\d.]+)%', text)
    return [(html.unescape(name), html.unescape(said).replace("\xa0", " "), float(width)) for name, said, width in bars]


def test_the_best_products_are_called_by_their_names(target: Path) -> None:
    """A name that two of them have says nothing; then its product's SKU stands behind it, and alone where there is no
    name."""
    named = [("2026-01-01", "MUG-1", "Mug"), ("2026-01-01", "MUG-2", "Mug"), ("2026-01-01", "MUG-3", "")]
    rows = [(*row, "BRL", "1", "1", f"{200 - number}.00", "0", "0") for number, row in enumerate(named)]
    assert ranking(page([*DECEMBER, *rows], target)) == [
        ("Café $y_2$, 1 kg", "R$123.5K", 100.0),
        ("<script>alert(1)</script> & ☕", "R$1,000.00", 0.81),
        ("Mug MUG-1", "R$200.00", 0.16),
        ("Mug MUG-2", "R$199.00", 0.16),
        ("MUG-3", "R$198.00", 0.16),
    ]


def test_more_than_a_season_is_drawn_by_week(target: Path) -> None:
    def drawn(days: int) -> tuple[list[str], int]:
        text = page(many(days), target)
        bars = len(re.findall(r'style="fill: #2f6690"', pictures(text)[0]))
        return re.findall(r"<h2>(.*?)</h2>", text)[:2], bars

    assert drawn(62) == (["Revenue per day (BRL)", "Rejected lines per day (% of lines)"], 62)
    assert drawn(120)[0] == ["Revenue per day (BRL)", "Rejected lines per day (% of lines)"]
    assert drawn(121) == (["Revenue per week (BRL)", "Rejected lines per week (% of lines)"], 18)
    assert drawn(365) == (["Revenue per week (BRL)", "Rejected lines per week (% of lines)"], 53)


def test_a_week_is_all_that_was_sold_in_it(target: Path) -> None:
    """2026-01-01 is a Thursday; what is said of the pictures says so, too."""
    text = page(many(365), target)
    assert "From January 1, 2026 to December 31, 2026. Highest: R$9,499.00, in the week of December 21, 2026." in text
    assert "Highest: 25.0%, in the week of December 29, 2025." in text
    assert "Weeks begin on Monday" in text
    assert "Weeks begin on Monday" not in page(many(120), target)


async def test_no_hole_is_beside_a_chart(target: Path) -> None:
    """However many there are, and on a phone."""
    async with browser() as chromium:
        for currencies, width in ((("BRL",), 1100), (("BRL", "USD"), 1100), (("BRL", "USD"), 360)):
            target.with_suffix(".html").write_text(page(many(3, currencies), target))
            shown = await chromium.new_page(viewport={"width": width, "height": 800})
            await shown.goto(target.with_suffix(".html").as_uri())
            whole = await shown.locator(".charts").bounding_box()
            cards = [await card.bounding_box() for card in await shown.locator(".charts > *").all()]
            assert whole
            assert len(cards) == 2 * len(currencies) + 1
            rows: dict[float, float] = {}
            for card in cards:
                assert card
                rows[card["y"]] = max(rows.get(card["y"], 0), card["x"] + card["width"])
            assert all(end == pytest.approx(whole["x"] + whole["width"], abs=1) for end in rows.values())
            assert await shown.evaluate("document.documentElement.scrollWidth") <= width
            await shown.close()


def test_no_letters_leave_a_picture(target: Path) -> None:
    rows = [("2026-01-01", "MUG", "", "BRL", "1", "1", "99999999.99", "0", "0")]
    for picture in pictures(page(rows, target)):
        tree = ElementTree.fromstring(picture)
        *_, width, height = map(float, (tree.get("viewBox") or "").split())
        places = list(letters(tree))
        assert len(places) > 5
        assert all(0 <= x <= width - 4 and 4 <= y <= height for x, y in places)


@pytest.mark.parametrize(("days", "ticks"), [(1, 1), (2, 2), (31, 4), (62, 4), (63, 4), (180, 4), (400, 4), (3000, 4)])
def test_however_many_days_few_are_named(days: int, ticks: int, target: Path) -> None:
    by_day = labels(pictures(page(many(days), target))[0])
    named = [label for label in by_day if re.match(r"[A-Z][a-z]{2} \d", label)]
    assert len(named) == len(set(named)) == ticks
    assert all(re.search(r"\d{4}$", label) for label in named) == (days > 180)


def test_each_currency_has_its_own_charts(target: Path) -> None:
    text = page(many(2, ("BRL", "JPY", "USD")), target)
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles == [
        "Revenue per day (BRL)", "Revenue per day (JPY)", "Revenue per day (USD)",
        "Rejected lines per day (% of lines)",
        "Products by revenue (BRL)", "Products by revenue (JPY)", "Products by revenue (USD)", "By product",
    ]  # fmt: skip
    assert "Revenue in BRL R$2,001.00 Revenue in JPY ¥2,001 Revenue in USD $2,001.00" in flat(text)


def test_a_currency_that_brought_nothing_has_no_chart(target: Path) -> None:
    text = page([("2026-01-01", "MUG", "", "BRL", "2", "0", "", "2", "1.0")], target)
    assert re.findall(r"<h2>(.*?)</h2>", text) == ["Rejected lines per day (% of lines)", "By product"]
    assert "Revenue in BRL R$0.00" in flat(text)
    assert "100.0%" in text


def test_a_long_table_says_how_many_more_there_are(target: Path) -> None:
    rows = [("2026-01-01", f"SKU-{n}", "", "BRL", "1", "1", str(n), "0", "0") for n in range(1234)]
    text = page(rows, target)
    assert text.count("<tr><td>") == 200
    assert "SKU-1233" in text
    assert ">SKU-1033<" not in text
    assert "and 1,034 more" in text


# -- pdf --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_pango")
@pytest.mark.parametrize(
    ("locale", "title", "said"),
    [
        ("pt-BR", "Resumo de vendas", ["R$ 124.500,00", "Receita por dia (BRL)", "Página 1 de 1", "40,0%"]),
        ("en", "Sales summary", ["R$124,500.00", "Revenue per day (BRL)", "Page 1 of 1", "40.0%"]),
    ],
)
def test_pdf_says_the_same(locale: str, title: str, said: list[str], target: Path) -> None:
    found = PdfReader(io.BytesIO(written(DECEMBER, target, "pdf", locale, **MONTH)))
    text = " ".join(" ".join(page.extract_text() for page in found.pages).split())
    assert all(each in text for each in [title, "COFFEE_1KG", "Café $y_2$, 1 kg", "<script>", *said]), text
    assert found.metadata
    assert (found.metadata.title or "").startswith(title)
    assert found.trailer["/Root"]["/Lang"] == locale
    fonts = {name for page in found.pages for name in _fonts(page)}
    assert any("DejaVu" in name for name in fonts), fonts


@pytest.mark.usefixtures("_pango")
def test_names_in_every_script_are_letters_and_no_boxes(target: Path) -> None:
    """The fonts that matplotlib brings along have none of these: they would be boxes of theirs."""
    names = ["กาแฟไทย", "कॉफ़ी", "コーヒー豆", "커피", "咖啡豆", "வணக்கம்", "🦜"]
    rows = [("2026-01-01", f"SKU-{n}", name, "BRL", "1", "1", "1.00", "0", "0") for n, name in enumerate(names)]
    drawn: dict[str, str] = {}

    def see(text: str, _: Any, __: Any, font: Any, ___: Any) -> None:
        drawn.update({letter: str(font["/BaseFont"]) for letter in text if font})

    PdfReader(io.BytesIO(written(rows, target, "pdf"))).pages[0].extract_text(visitor_text=see)
    assert "DejaVu" in drawn["S"]
    boxes = {letter for name in names for letter in name if "DejaVu" in drawn.get(letter, "")}
    assert not boxes
    assert {name[0] for name in names} <= drawn.keys()


@pytest.mark.usefixtures("_pango")
def test_a_long_pdf_numbers_its_pages_and_repeats_the_tables_head(target: Path) -> None:
    rows = [("2026-01-01", f"SKU-{n}", "Name", "BRL", "1", str(n), "1", "0", "0") for n in range(90)]
    pages = [page.extract_text() for page in PdfReader(io.BytesIO(written(rows, target, "pdf"))).pages]
    assert len(pages) > 2
    assert all(f"Page {number} of {len(pages)}" in text for number, text in enumerate(pages, start=1))
    assert all("Rejected lines" in text for text in pages)


@pytest.mark.usefixtures("_pango")
@pytest.mark.parametrize("format_", ["html", "pdf"])
def test_the_same_rows_are_the_same_bytes_in_another_process(format_: str, target: Path) -> None:
    script = (
        "import pathlib, sys; from tests.unit.reports.test_summary import DECEMBER, written;"
        f"written(DECEMBER, pathlib.Path(sys.argv[1]), {format_!r})"
    )
    first = written(DECEMBER, target, format_)
    subprocess.run([sys.executable, "-c", script, str(target)], check=True, env={"PYTHONHASHSEED": "7"})
    assert target.read_bytes() == first


class _NoPango(importlib.abc.MetaPathFinder):
    """What cffi does on a machine without the library."""

    def find_spec(self, fullname: str, *_: object) -> None:
        if fullname == "weasyprint":
            raise OSError("cannot load library 'libpango-1.0-0'")


@pytest.fixture
def _without_pango(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "weasyprint"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_NoPango(), *sys.meta_path])


@pytest.mark.usefixtures("_without_pango")
def test_without_pango_a_pdf_fails_in_words_and_html_is_written(target: Path) -> None:
    with pytest.raises(PangoMissing, match=r"^A pdf needs Pango.*apt-get install libpango-1\.0-0 .*ask for html\.$"):
        written(DECEMBER, target, "pdf")
    assert not target.exists()
    assert page(DECEMBER, target)


def _fonts(page: Any) -> Iterator[str]:
    for font in page["/Resources"].get("/Font", {}).values():
        yield font.get_object()["/BaseFont"]
