"""Every format, read back by somebody else's reader."""

import csv
import io
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from contracts.base import minor_digits
from contracts.reports import COLUMNS, ReportWish
from services.reports import domain
from services.reports.templates import CONCATENATED, assemble, write_part
from services.reports.templates.tables import Clock
from tests.spreadsheets import FORMULAS, cells_anywhere, harmless

FORMATS = ("csv", "jsonl", "parquet", "xlsx")
ZONES = ("America/Sao_Paulo", "UTC", "Asia/Kolkata", "America/New_York", "Australia/Lord_Howe", "Africa/Monrovia")
NASTY = (
    '=cmd("|")', "+1", "-1", "@SUM(A1)", *FORMULAS[4:], "\tx", "\rx", "\nx", 'a "b", c', "a;b", "a\r\nb", "a\rb",
    "☕ 🇧🇷", "_x0041_", "1e5", "00012", "https://example.com", " blank ", "\\.", "NULL", "nan", "'quoted'",
    "<&>\x07\ufffe", ";=1+1;", ',"=1', "\t =1", '";""-1',
)  # fmt: skip

Row = tuple[str, ...]
Value = str | int | Decimal | datetime | date | None


def text() -> st.SearchStrategy[str]:
    """Whatever PostgreSQL can hold."""
    any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
    return st.one_of(st.sampled_from(NASTY), any_text, st.tuples(st.sampled_from(NASTY), any_text).map("".join))


@st.composite
def orders(draw: st.DrawFn) -> Row:
    currency = draw(st.sampled_from(["BRL", "JPY", "KWD", "CLF"]))
    amount = Decimal(draw(st.integers(0, 10**12))).scaleb(-minor_digits(currency))
    times = st.integers(0, 4_000_000_000_000).map(str)
    texts = [draw(text()) for _ in range(5)]
    money = draw(st.sampled_from(["", f"{amount:f}"]))
    return (
        "01985b7e-6f4a-7c3e-9d1f-0a2b3c4d5e6f", *texts, currency, money, "3", draw(st.integers(1, 10**6).map(str)),
        draw(times), *(draw(st.one_of(st.just(""), times)) for _ in range(3)),
    )  # fmt: skip


@st.composite
def movements(draw: st.DrawFn) -> Row:
    number, time = st.integers(-(10**9), 10**9).map(str), st.integers(0, 4_000_000_000_000).map(str)
    return (
        draw(text().filter(bool)), draw(time), draw(text()), "adjusted", draw(number), draw(number), draw(text()),
        draw(text()), draw(text()),
    )  # fmt: skip


SALES: list[Row] = [
    ("2026-01-01", "COFFEE-1KG", "Café, 1 kg", "BRL", "4", "9", "629.10", "1", "0.2500"),
    ("2026-01-02", "=SKU", "", "JPY", "3", "0", "0", "3", "1.0000"),
    ("2026-01-03", "MUG", "Mug", "CLF", "3", "1", "0.1234", "0", "0.0000"),
]
ROWS: dict[str, st.SearchStrategy[list[Row]]] = {
    "orders": st.lists(orders(), max_size=6),
    "stock-movements": st.lists(movements(), max_size=6),
    "sales-summary": st.lists(st.sampled_from(SALES), max_size=6),
}
examples = st.one_of(*(st.tuples(st.just(kind), rows) for kind, rows in ROWS.items()))


def quoted(value: str, delimiter: str = ",") -> str:
    """As PostgreSQL's COPY decides it."""
    return '"' + value.replace('"', '""') + '"' if any(c in value for c in f'{delimiter}"\r\n') else value


def raw(rows: Sequence[Row]) -> bytes:
    return "".join(",".join(map(quoted, row)) + "\n" for row in rows).encode()


def wish(kind: str, format_: str, zone: str = "America/Sao_Paulo", **options: Any) -> ReportWish:
    return ReportWish.model_validate({"kind": kind, "format": format_, "timezone": zone, "options": options})


def part(content: bytes, wished: ReportWish, first_row: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "raw", Path(folder) / "part"
        source.write_bytes(content)
        write_part(source, wished, first_row, target)
        return target.read_bytes()


def file(rows: Sequence[Row], wished: ReportWish, target: Path, sizes: Sequence[int] = ()) -> bytes:
    """The whole file, cut into parts of the given sizes, with the rest as the last."""
    parts, done = [], 0
    for size in sizes:
        if rows[done : done + size]:
            parts.append(part(raw(rows[done : done + size]), wished, done))
            done += len(rows[done : done + size])
    if rows[done:] or not parts:
        parts.append(part(raw(rows[done:]), wished, done))
    assemble(parts, wished, target)
    return target.read_bytes()


def values(rows: Sequence[Row], kind: str, zone: str) -> list[list[Value]]:
    """What the raw rows mean."""
    means: dict[str, Callable[[str], Value]] = {
        "text": str,
        "integer": int,
        "money": Decimal,
        "share": Decimal,
        "day": date.fromisoformat,
        "time": lambda value: (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(value))).astimezone(
            ZoneInfo(zone)
        ),
    }
    return [
        [means[column.type](value) if value else None for column, value in zip(COLUMNS[kind], row, strict=True)]
        for row in rows
    ]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "report.xlsx"  # openpyxl reads nothing that is called otherwise


@pytest.fixture(scope="module")
def shared_target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For hypothesis, which knows no fixture that is made for each example."""
    return tmp_path_factory.mktemp("reports") / "report.xlsx"


# -- csv --------------------------------------------------------------------------------------------------------------


def postgres_time(at: datetime) -> str:
    sign = "-" if (at.utcoffset() or timedelta()) < timedelta() else "+"
    ahead = abs(at.utcoffset() or timedelta())
    hours, minutes, seconds = str(ahead).zfill(8).split(":")
    said = hours + (f":{minutes}" if minutes + seconds != "0000" else "") + (f":{seconds}" if seconds != "00" else "")
    return f"{at:%Y-%m-%d %H:%M:%S}{sign}{said}"


def in_csv(value: Value, raw_value: str, delimiter: str) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}" if delimiter == ";" else postgres_time(value)
    if isinstance(value, Decimal) and delimiter == ";":
        return raw_value.replace(".", ",")
    return harmless(value) if isinstance(value, str) else raw_value


@given(example=examples, zone=st.sampled_from(ZONES), delimiter=st.sampled_from([",", ";"]))
@settings(max_examples=60, deadline=None)
def test_csv_reads_back_and_is_quoted_as_copy_does(
    example: tuple[str, list[Row]], zone: str, delimiter: str, shared_target: Path
) -> None:
    kind, rows = example
    found = file(rows, wish(kind, "csv", zone, delimiter=delimiter), shared_target)
    expected = [[column.name for column in COLUMNS[kind]]] + [
        [in_csv(value, raw_value, delimiter) for value, raw_value in zip(meant, row, strict=True)]
        for meant, row in zip(values(rows, kind, zone), rows, strict=True)
    ]
    assert list(csv.reader(io.StringIO(found.decode(), newline=""), delimiter=delimiter)) == expected
    lines = [delimiter.join(quoted(value, delimiter) for value in row) + "\n" for row in expected]
    assert found == "".join(lines).encode()


def test_csv_for_programs_and_csv_for_spreadsheets(target: Path) -> None:
    row = ("id", "PLACED", "", "c", "Ana", "a@b.co", "BRL", "69.90", "1", "2", "1767236400999", "", "", "")
    plain = file([row], wish("orders", "csv"), target).decode().splitlines()
    assert plain == [
        "order_id,status,reason,customer_id,customer_name,customer_email,currency,total,lines,pieces,placed_at,"
        "confirmed_at,rejected_at,cancelled_at",
        "id,PLACED,,c,Ana,a@b.co,BRL,69.90,1,2,2026-01-01 00:00:00-03,,,",
    ]
    brazilian = file([row], wish("orders", "csv", delimiter=";", bom=True), target)
    assert brazilian.startswith(b"\xef\xbb\xbforder_id;status;")
    assert brazilian.decode().endswith(";BRL;69,90;1;2;2026-01-01 00:00:00;;;\n")


def test_only_text_is_made_harmless_and_numbers_stay_numbers(target: Path) -> None:
    row = ("+id", "0", "SKU", "adjusted", "-5", "0", "", '=HYPERLINK("x")', "-ana")
    found = file([row], wish("stock-movements", "csv", "UTC"), target).decode().splitlines()[1]
    assert found == """'+id,1970-01-01 00:00:00+00,SKU,adjusted,-5,0,,"'=HYPERLINK(""x"")",'-ana"""


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_no_formula_hides_behind_a_separator_that_is_not_the_files_own(delimiter: str, target: Path) -> None:
    before = (*",;\t\n\r ", ";'", ';"', 'a,""', '";', "; ", '"')
    hidden = [f"Ana{between}{start}1;x" for start in FORMULAS for between in before]
    hidden += [f"{between}{start}1,x" for start in FORMULAS for between in before]
    rest = ("a@b.co", "BRL", "69.90", "1", "2", "1767236400999", "", "", "")
    found = file(
        [("id", "PLACED", *[text] * 3, *rest) for text in hidden], wish("orders", "csv", delimiter=delimiter), target
    )
    assert not [cell for cell in cells_anywhere(found.decode()) if cell.startswith(FORMULAS)]


def test_what_only_looks_like_a_formula_stays_as_it_is(target: Path) -> None:
    plain = "A-B", "1 = 1", "Ana - x, y + z", "a@b.co", "'=1", "x;y,z", "Ana (=1)"
    for text in plain:
        row = ("id", "PLACED", "", "c", text, "a@b.co", "BRL", "69.90", "1", "2", "1767236400999", "", "", "")
        found = file([row], wish("orders", "csv"), target).decode()
        assert next(csv.DictReader(io.StringIO(found)))["customer_name"] == text


# -- jsonl ------------------------------------------------------------------------------------------------------------


@given(example=examples, zone=st.sampled_from(ZONES))
@settings(max_examples=60, deadline=None)
def test_jsonl_reads_back(example: tuple[str, list[Row]], zone: str, shared_target: Path) -> None:
    kind, rows = example
    types = {column.name: column.type for column in COLUMNS[kind]}
    found = [json.loads(line) for line in file(rows, wish(kind, "jsonl", zone), shared_target).split(b"\n")[:-1]]
    assert [list(row) for row in found] == [list(types)] * len(rows)
    read: dict[str, Callable[[Any], Value]] = {
        "money": Decimal,
        "share": lambda value: Decimal(str(value)),
        "time": datetime.fromisoformat,
        "day": date.fromisoformat,
    }
    assert [
        [read.get(types[name], lambda same: same)(value) if value is not None else None for name, value in row.items()]
        for row in found
    ] == values(rows, kind, zone)


def test_jsonl_says_numbers_as_numbers_and_money_as_text(target: Path) -> None:
    line = json.loads(file(SALES[:1], wish("sales-summary", "jsonl"), target))
    assert (line["day"], line["pieces"], line["revenue"], line["rejected_share"]) == ("2026-01-01", 9, "629.10", 0.25)
    row = ("id", "1767236400123", "SKU", "taken", "-1", "-1", "", "=1", "")
    line = json.loads(file([row], wish("stock-movements", "jsonl"), target))
    assert (line["moved_at"], line["reason"]) == ("2026-01-01T00:00:00.123-03:00", "=1")
    assert line["order_id"] is None


# -- parquet ----------------------------------------------------------------------------------------------------------


@given(example=examples, zone=st.sampled_from(ZONES), size=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_parquet_reads_back(example: tuple[str, list[Row]], zone: str, size: int, shared_target: Path) -> None:
    kind, rows = example
    file(rows, wish(kind, "parquet", zone), shared_target, [size, size])
    table = parquet.read_table(shared_target)
    assert [list(row.values()) for row in table.to_pylist()] == values(rows, kind, zone)
    assert table.schema.names == [column.name for column in COLUMNS[kind]]


def test_parquet_is_typed_and_has_a_row_group_for_each_part(target: Path) -> None:
    file(SALES, wish("sales-summary", "parquet"), target, [1, 1])
    found = parquet.ParquetFile(target)
    assert [found.metadata.row_group(at).num_rows for at in range(found.num_row_groups)] == [1, 1, 1]
    assert {field.name: str(field.type) for field in found.schema_arrow} == {
        "day": "date32[day]", "sku": "string", "name": "string", "currency": "string", "orders": "int64",
        "pieces": "int64", "revenue": "decimal128(24, 4)", "rejected_orders": "int64",
        "rejected_share": "decimal128(5, 4)",
    }  # fmt: skip
    file([], wish("orders", "parquet", "Asia/Kolkata"), target)
    assert str(parquet.read_schema(target).field("placed_at").type) == "timestamp[ms, tz=Asia/Kolkata]"


# -- xlsx -------------------------------------------------------------------------------------------------------------


def unescaped(value: Any) -> Any:
    """ECMA-376, 22.9.2.19 (ST_Xstring)."""
    if not isinstance(value, str):
        return value
    return re.sub("_x([0-9A-Fa-f]{4})_", lambda found: chr(int(found[1], 16)), value)


def cells(target: Path) -> list[list[list[Any]]]:
    """Each sheet's rows, without their headers."""
    book = openpyxl.load_workbook(target)
    return [
        [[unescaped(cell) for cell in row] for row in sheet.iter_rows(min_row=2, values_only=True)] for sheet in book
    ]


def in_xlsx(value: Value) -> Any:
    if isinstance(value, datetime):
        return value.replace(tzinfo=None, microsecond=0)
    if isinstance(value, Decimal):
        return pytest.approx(float(value), rel=1e-15)
    return datetime(value.year, value.month, value.day) if isinstance(value, date) else value  # noqa: DTZ001


@given(example=examples, zone=st.sampled_from(ZONES), sizes=st.lists(st.integers(1, 3), max_size=3))
@settings(max_examples=50, deadline=None)
def test_xlsx_reads_back(example: tuple[str, list[Row]], zone: str, sizes: list[int], shared_target: Path) -> None:
    kind, rows = example
    file(rows, wish(kind, "xlsx", zone), shared_target, sizes)
    assert cells(shared_target) == [[[in_xlsx(value) for value in row] for row in values(rows, kind, zone)]]


def test_xlsx_cells_are_typed_and_the_header_is_frozen_and_filtered(target: Path) -> None:
    file(SALES, wish("sales-summary", "xlsx"), target, [1])
    [sheet] = openpyxl.load_workbook(target).worksheets
    assert (sheet.title, sheet.dimensions, sheet.freeze_panes) == ("sales-summary", "A1:I4", "A2")
    assert (sheet.auto_filter.ref, sheet["A1"].value, sheet["A1"].font.bold) == ("A1:I4", "day", True)
    assert [sheet.cell(2, at).data_type for at in range(1, 10)] == list("dsssnnnnn")
    assert [sheet.cell(row, 7).number_format for row in (2, 3, 4)] == ["#,##0.00", "#,##0", "#,##0.0000"]
    assert (sheet["A2"].number_format, sheet["I2"].number_format) == ("yyyy-mm-dd", "0.0%")
    assert (sheet["B3"].value, sheet["B3"].data_type) == ("=SKU", "s")
    assert sheet.column_dimensions["B"].width > 20


def test_more_rows_than_a_sheet_takes_go_on_in_further_sheets(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain, "SHEET_ROWS", 4)
    rows = [(f"id-{n}", str(n * 1000), "SKU", "taken", str(n), "0", "", "", "") for n in range(9)]
    file(rows, wish("stock-movements", "xlsx", "UTC"), target, [3, 1, 4, 1])
    book = openpyxl.load_workbook(target)
    assert book.sheetnames == ["stock-movements", "stock-movements 2", "stock-movements 3"]
    assert [sheet.dimensions for sheet in book] == ["A1:I5", "A1:I5", "A1:I2"]
    assert [sheet["A1"].value for sheet in book] == ["movement_id"] * 3
    assert [[row[0] for row in sheet] for sheet in cells(target)] == [
        ["id-0", "id-1", "id-2", "id-3"],
        ["id-4", "id-5", "id-6", "id-7"],
        ["id-8"],
    ]
    file(rows, wish("stock-movements", "xlsx", "UTC"), target)
    assert [len(sheet) for sheet in cells(target)] == [4, 4, 1], "one part, which crosses two borders"
    file(rows[:8], wish("stock-movements", "xlsx", "UTC"), target, [4, 4])
    assert len(openpyxl.load_workbook(target).sheetnames) == 2


def test_xlsx_text_that_excel_cannot_hold_is_cut(target: Path) -> None:
    row = ("id", "0", "SKU", "taken", "0", "0", "", "☕" * 20_000 + "🫖" * 20_000, "")
    file([row], wish("stock-movements", "xlsx"), target)
    reason = openpyxl.load_workbook(target).active["H2"].value
    assert len(reason.encode("utf-16-le")) // 2 in (32_766, 32_767)


def test_a_workbook_names_all_that_is_in_it(target: Path) -> None:
    file(SALES, wish("sales-summary", "xlsx"), target)
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
        types = archive.read("[Content_Types].xml").decode()
        named = set(re.findall(r'PartName="/([^"]+)"', types))
        assert named == {name for name in archive.namelist() if not name.endswith(".rels")} - {"[Content_Types].xml"}
        sheets = set(re.findall(r'Target="([^"]+)"', archive.read("xl/_rels/workbook.xml.rels").decode()))
        assert {f"xl/{name}" for name in sheets} <= named
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert "1980-01-01T00:00:00Z" in archive.read("docProps/core.xml").decode()


# -- all --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", CONCATENATED)
@given(rows=st.lists(orders(), max_size=6), sizes=st.lists(st.integers(1, 3), max_size=4))
@settings(max_examples=50, deadline=None)
def test_parts_in_a_row_are_the_same_as_one_part(
    format_: str, rows: list[Row], sizes: list[int], shared_target: Path
) -> None:
    whole = part(raw(rows), wish("orders", format_), 0)
    assert file(rows, wish("orders", format_), shared_target, sizes) == whole


@pytest.mark.parametrize("format_", FORMATS)
def test_the_same_rows_are_the_same_bytes(format_: str, target: Path) -> None:
    first = file(SALES, wish("sales-summary", format_), target, [1, 1])
    assert file(SALES, wish("sales-summary", format_), target, [1, 1]) == first


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_report_without_rows_is_a_file_with_a_header(kind: str, target: Path) -> None:
    names = [column.name for column in COLUMNS[kind]]
    assert file([], wish(kind, "csv"), target).decode() == ",".join(names) + "\n"
    assert file([], wish(kind, "jsonl"), target) == b""
    file([], wish(kind, "parquet"), target)
    assert (parquet.read_schema(target).names, parquet.read_metadata(target).num_rows) == (names, 0)
    file([], wish(kind, "xlsx"), target)
    [sheet] = openpyxl.load_workbook(target).worksheets
    assert list(sheet.values) == [tuple(names)]


@given(zone=st.sampled_from([*ZONES, "Europe/Berlin", "Pacific/Apia"]), seconds=st.integers(0, 4_000_000_000))
@settings(max_examples=100, deadline=None)
def test_a_clock_shows_what_python_says(zone: str, seconds: int) -> None:
    clock = Clock(zone)
    for at in range(seconds, seconds + 7_200, 599):
        local = datetime.fromtimestamp(at, ZoneInfo(zone))
        assert clock.text(at, clock.offset(at)) == f"{local:%Y-%m-%d %H:%M:%S}"
        assert timedelta(seconds=clock.offset(at)) == local.utcoffset()


@pytest.mark.parametrize(
    ("zone", "changes"),
    [
        ("America/New_York", datetime(2026, 11, 1, 6, tzinfo=UTC)),
        ("America/New_York", datetime(2026, 3, 8, 7, tzinfo=UTC)),
        ("America/Sao_Paulo", datetime(2018, 11, 4, 3, tzinfo=UTC)),
        ("Australia/Lord_Howe", datetime(2026, 4, 4, 15, tzinfo=UTC)),
        ("Africa/Monrovia", datetime(1972, 1, 7, 0, 44, 30, tzinfo=UTC)),
    ],
)
def test_times_are_right_when_clocks_are_changed(zone: str, changes: datetime, target: Path) -> None:
    moments = [changes + timedelta(seconds=around) for around in (-3600, -31, -1, 0, 1, 29, 31, 900, 3600)]
    assert changes.astimezone(ZoneInfo(zone)).utcoffset() != moments[2].astimezone(ZoneInfo(zone)).utcoffset()
    rows = [("id", str(round(at.timestamp() * 1000)), "SKU", "taken", "1", "1", "", "", "") for at in moments]
    local = [at.astimezone(ZoneInfo(zone)) for at in moments]
    found = list(csv.reader(file(rows, wish("stock-movements", "csv", zone), target).decode().splitlines()[1:]))
    assert [row[1] for row in found] == [postgres_time(at) for at in local]
    lines = file(rows, wish("stock-movements", "jsonl", zone), target).splitlines()
    assert [json.loads(line)["moved_at"] for line in lines] == [at.isoformat(timespec="milliseconds") for at in local]


def test_asking_for_a_media_type_loads_no_library() -> None:
    heavy = ("pyarrow", "xlsxwriter", "matplotlib", "weasyprint")
    script = f"import sys, services.reports.templates; print([name for name in {heavy} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
