"""Rows as csv, jsonl, parquet and xlsx. The same rows give the same bytes."""

import codecs
import csv
import functools
import io
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any, NamedTuple
from zipfile import ZIP_DEFLATED, ZipFile
from zoneinfo import ZoneInfo

import orjson

from contracts.base import minor_digits
from contracts.reports import COLUMNS, Column, ReportWish
from services.reports import domain

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 1_000
"""Rows that are converted at once: enough to be fast, few enough to need little memory."""
_LINE = orjson.OPT_APPEND_NEWLINE
_DAY = 86_400
_EPOCH = date(1970, 1, 1).toordinal()
_EXCEL_EPOCH = 25_569
"""1970-01-01 as a workbook's day number."""
_SHEET = "xl/worksheets/sheet{}.xml"
_PART = struct.Struct(">III")
_BLOCK = 1024 * 1024
_ZIP_BYTES = 2**31 - 1
"""A larger entry of an archive needs Zip64, which not every program reads."""
_WIDTHS = {"text": 16, "integer": 10, "money": 14, "time": 20, "day": 12, "share": 10} | {
    "order_id": 38, "movement_id": 56, "customer_name": 30, "customer_email": 32, "name": 30, "sku": 22,
}  # fmt: skip
"""Widths of columns in characters, by type or by name."""
_WHITE_STARTS = tuple(map(chr, domain.WHITE_STARTS))
_before_a_formula = re.compile(domain.BEFORE_A_FORMULA)
_may_be_a_formula = re.compile(domain.MAY_BE_A_FORMULA)


def write_csv_part(raw: IO[bytes], request: ReportWish, has_header: bool, target: IO[bytes]) -> int:
    """Write RFC 4180 as PostgreSQL's COPY does: LF ends a row, and a field is quoted only if necessary. Returns the
    number of rows."""
    columns, lines = COLUMNS[request.kind], _Lines()
    writer = csv.writer(lines, delimiter=request.options.delimiter, lineterminator="\r\n")
    clock = Clock(request.timezone)
    turns = [_csv(column, request, clock) for column in columns]
    if has_header:
        target.write(codecs.BOM_UTF8 if request.options.bom else b"")
        writer.writerow([column.name for column in columns])
        target.write(lines.take())
    number = 0
    for batch in _columns(raw):
        writer.writerows(zip(*(turn(values) for turn, values in zip(turns, batch, strict=True)), strict=True))
        target.write(lines.take())
        number += len(batch[0])
    return number


def write_jsonl_part(raw: IO[bytes], request: ReportWish, target: IO[bytes]) -> int:
    """Write an object for each row. Money is text, because a reader that uses doubles would round it. Returns the
    number of rows."""
    columns = COLUMNS[request.kind]
    names = [column.name for column in columns]
    clock = Clock(request.timezone)
    turns = [_json(column, clock) for column in columns]
    number = 0
    for batch in _columns(raw):
        rows = zip(*(map(turn, values) for turn, values in zip(turns, batch, strict=True)), strict=True)
        target.writelines(orjson.dumps(dict(zip(names, row, strict=True)), option=_LINE) for row in rows)
        number += len(batch[0])
    return number


class Clock:
    """Local times of a time zone. Caches the offset of each quarter hour, because computing it for each time is
    slow."""

    def __init__(self, zone: str) -> None:
        self._zone = ZoneInfo(zone)
        self._offsets: dict[int, int] = {}

    def offset(self, seconds: int) -> int:
        """Seconds ahead of UTC at a time in epoch seconds."""
        quarter = seconds // 900
        found = self._offsets.get(quarter)
        if found is None:
            found = self._ask(seconds)
            if self._ask(quarter * 900) == self._ask(
                quarter * 900 + 899
            ):  # no zone changes its clocks within a quarter hour
                self._offsets[quarter] = found
        return found

    def text(self, seconds: int, offset: int, separator: str = " ") -> str:
        """`2026-01-01 00:00:00`."""
        day, second = divmod(seconds + offset, _DAY)
        return f"{_day(day)}{separator}{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"

    def _ask(self, seconds: int) -> int:
        ahead = datetime.fromtimestamp(seconds, UTC).astimezone(self._zone).utcoffset()
        return round(ahead.total_seconds()) if ahead else 0


@functools.lru_cache(maxsize=10_000)
def _day(days: int) -> str:
    return date.fromordinal(_EPOCH + days).isoformat()


@functools.lru_cache
def _offset(seconds: int, shortest: bool) -> str:
    """An offset such as `-03:00`, or `-03` as PostgreSQL prints it. A few historical offsets have seconds."""
    ahead = abs(seconds)
    parts = [ahead // 3600, ahead // 60 % 60, ahead % 60]
    fewest = 1 if shortest else 2
    while len(parts) > fewest and not parts[-1]:
        parts.pop()
    return ("-" if seconds < 0 else "+") + ":".join(f"{part:02}" for part in parts)


class _Lines(list[str]):
    """Collects the rows of a csv writer without their ends. The writer's end is CR LF, so that it quotes a field with
    either of them."""

    def write(self, line: str) -> None:
        self.append(line[:-2])

    def take(self) -> bytes:
        """The rows since the last call."""
        taken = "".join(f"{line}\n" for line in self).encode()
        self.clear()
        return taken


def _columns(raw: IO[bytes]) -> Iterator[list[tuple[str, ...]]]:
    """The columns of some rows at a time."""
    reader = read_rows(raw)
    while rows := list(islice(reader, BATCH)):
        yield list(zip(*rows, strict=True))


def read_rows(raw: IO[bytes]) -> Iterator[list[str]]:
    """Raw rows, as they are read from the database."""
    return csv.reader(io.TextIOWrapper(raw, encoding="utf-8", newline=""))


def _csv(column: Column, request: ReportWish, clock: Clock) -> Callable[[tuple[str, ...]], list[str] | tuple[str, ...]]:
    """The function that writes a column's raw values."""
    for_spreadsheets = request.options.delimiter == ";"

    def time(value: str) -> str:
        if not value:
            return ""
        seconds = int(value) // 1000
        offset = clock.offset(seconds)
        return clock.text(seconds, offset) + ("" if for_spreadsheets else _offset(offset, shortest=True))

    match column.type:
        case "text":
            return lambda values: [_harmless(value) for value in values]
        case "time":
            return lambda values: [time(value) for value in values]
        case "money" | "share" if for_spreadsheets:
            return lambda values: [value.replace(".", ",") for value in values]
        case _:
            return lambda values: values


def _harmless(value: str) -> str:
    """A text that no spreadsheet program runs as a formula."""
    if _may_be_a_formula.search(f",{value}"):
        value = _before_a_formula.sub(r"\g<0>'", value)
    return f"'{value}" if value.startswith(_WHITE_STARTS) else value


def _json(column: Column, clock: Clock) -> Callable[[str], str | int | float | None]:
    """A raw value as a JSON value."""

    def time(value: str) -> str | None:
        if not value:
            return None
        seconds, milliseconds = divmod(int(value), 1000)
        offset = clock.offset(seconds)
        return f"{clock.text(seconds, offset, 'T')}.{milliseconds:03}{_offset(offset, shortest=False)}"

    match column.type:
        case "time":
            return time
        case "integer":
            return lambda value: int(value) if value else None
        case "share":
            return lambda value: float(value) if value else None
        case _:
            return lambda value: value or None


# -- parquet ----------------------------------------------------------------------------------------------------------


def write_parquet_part(raw: IO[bytes], request: ReportWish, target: IO[bytes]) -> int:
    """Write a file with one row group."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    schema = _schema(request)
    table = schema.empty_table()
    if content := raw.read():
        read_as = {field.name: pa.int64() if pa.types.is_timestamp(field.type) else field.type for field in schema}
        table = csv.read_csv(
            pa.BufferReader(content),
            read_options=csv.ReadOptions(column_names=schema.names, use_threads=False, block_size=len(content) + 1),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(column_types=read_as, null_values=[""], strings_can_be_null=True),
        ).cast(schema)
    parquet.write_table(table, target, compression="zstd", row_group_size=max(1, table.num_rows))
    return int(table.num_rows)


def write_parquet(parts: Iterable[bytes], request: ReportWish, target: Path) -> None:
    """Write a file with a row group for each part."""
    import pyarrow as pa
    from pyarrow import parquet

    with parquet.ParquetWriter(target, _schema(request), compression="zstd") as writer:
        for part in parts:
            table = parquet.read_table(pa.BufferReader(part), use_threads=False)
            writer.write_table(table, row_group_size=max(1, table.num_rows))


def _schema(request: ReportWish) -> "pa.Schema":
    """The types of the columns. Money fits every currency: 4 digits after the point, as CLF needs, and 20 before it,
    which is 10,000 times the largest amount of a currency without decimals. BigQuery's NUMERIC holds it as well."""
    import pyarrow as pa

    types = {
        "text": pa.string(),
        "integer": pa.int64(),
        "money": pa.decimal128(24, 4),
        "time": pa.timestamp("ms", tz=request.timezone),
        "day": pa.date32(),
        "share": pa.decimal128(5, 4),
    }
    return pa.schema([(column.name, types[column.type]) for column in COLUMNS[request.kind]])


# -- xlsx -------------------------------------------------------------------------------------------------------------


def write_xlsx_part(raw: IO[bytes], request: ReportWish, first_row: int, target: IO[bytes]) -> int:
    """Write some rows as xlsxwriter's XML, compressed, after their number and sizes. Rows on two sheets give two such
    blocks.

    Text is written as text. No program runs it as a formula, so it stays as it is and reads back equal.
    """
    rows, done, number = read_rows(raw), first_row, -1
    while number and (number < 0 or done % domain.SHEET_ROWS == 0):  # rows after the end of a sheet go on in the next
        number = _write_rows(islice(rows, domain.SHEET_ROWS - done % domain.SHEET_ROWS), request, done, target)
        done += number
    return done - first_row


def _write_rows(rows: Iterable[list[str]], request: ReportWish, done: int, target: IO[bytes]) -> int:
    file, clock, row = io.BytesIO(), Clock(request.timezone), done % domain.SHEET_ROWS
    columns = COLUMNS[request.kind]
    workbook, formats = _workbook(file)
    sheet = workbook.add_worksheet()
    _use(formats, sheet, row=0)
    names = [column.name for column in columns]
    currency = names.index("currency") if "currency" in names else 0
    writes = [_cell(column, sheet, formats, clock) for column in columns]
    for values in rows:
        row += 1
        for column, (write, value) in enumerate(zip(writes, values, strict=True)):
            if value:
                write(row, column, value, values[currency])
    workbook.close()
    with ZipFile(file) as archive:
        xml = archive.read(_SHEET.format(1))
    xml = xml[_end_of_first_row(xml) : xml.index(b"</sheetData>")]
    stored, number = zlib.compress(xml, 1), row - done % domain.SHEET_ROWS
    target.write(_PART.pack(number, len(xml), len(stored)) + stored)
    return number


def write_xlsx(parts: Iterable[bytes], request: ReportWish, target: Path) -> None:
    """Write a workbook whose sheets consist of the parts' XML. The head of a sheet says how many rows follow, so the
    heads of all parts are read first."""
    with TemporaryFile(dir=target.parent) as spool, ZipFile(target, "w", ZIP_DEFLATED, compresslevel=1) as archive:
        sheets: list[list[_Part]] = [[]]
        done = 0
        for number, size, stored in (found for part in parts for found in _in_sheets(part)):
            spool.write(stored)
            if number and done // domain.SHEET_ROWS == len(sheets):
                sheets.append([])
            sheets[-1].append(_Part(number, size, len(stored)))
            done += number
        spool.seek(0)
        frame = ZipFile(_frame(request, [sum(part.number for part in sheet) for sheet in sheets]))
        bodies = {_SHEET.format(number): sheet for number, sheet in enumerate(sheets, start=1)}
        for name in frame.namelist():
            xml, rows = frame.read(name), bodies.get(name, [])
            size = len(xml) + sum(part.size for part in rows)
            with archive.open(
                name, "w", force_zip64=size > _ZIP_BYTES
            ) as file:  # given a name only, the entry is dated 1980
                cut = _end_of_first_row(xml) if rows else 0
                file.write(xml[:cut])
                for part in rows:
                    _inflate(spool.read(part.stored), file)
                file.write(xml[xml.index(b"</sheetData>") if rows else 0 :])


def _in_sheets(part: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The rows of a part by sheet: their number, and their bytes as XML and as stored."""
    start = 0
    while start < len(part):
        number, size, stored = _PART.unpack_from(part, start)
        start += _PART.size + stored
        yield number, size, part[start - stored : start]


class _Part(NamedTuple):
    """Some rows of a sheet: their number, and their bytes as XML and as stored."""

    number: int
    size: int
    stored: int


def _frame(request: ReportWish, heights: list[int]) -> IO[bytes]:
    """A workbook without rows: xlsxwriter gets only the header and the last row of each sheet."""
    columns, file = COLUMNS[request.kind], io.BytesIO()
    workbook, formats = _workbook(file)
    for number, height in enumerate(heights, start=1):
        sheet = workbook.add_worksheet(request.kind if number == 1 else f"{request.kind} {number}")
        for at, column in enumerate(columns):
            sheet.set_column(at, at, max(_WIDTHS.get(column.name, _WIDTHS[column.type]), len(column.name) + 4))
            sheet.write_string(0, at, column.name, formats["header"])
        sheet.freeze_panes(1, 0)
        sheet.autofilter(0, 0, height, len(columns) - 1)
        if height:
            _use(formats, sheet, row=height)
    workbook.close()
    return file


def _workbook(file: IO[bytes]) -> tuple[Any, dict[str, Any]]:
    """A workbook whose bytes depend only on its content, and its formats: one for each number of decimal places that a
    currency can have."""
    from xlsxwriter import Workbook

    workbook = Workbook(file, {"constant_memory": True})
    workbook.set_properties({"created": datetime(1980, 1, 1, tzinfo=UTC)})
    looks = {"time": "yyyy-mm-dd hh:mm:ss", "day": "yyyy-mm-dd", "share": "0.0%", "0": "#,##0"}
    looks |= {str(digits): f"#,##0.{'0' * digits}" for digits in (2, 3, 4)}
    formats = {"header": workbook.add_format({"bold": True})}
    return workbook, formats | {name: workbook.add_format({"num_format": look}) for name, look in looks.items()}


def _use(formats: dict[str, Any], sheet: Any, row: int) -> None:
    """Use all formats in a row that is removed later. xlsxwriter numbers formats as they are used, so the numbers are
    always equal."""
    for column, look in enumerate(formats.values()):
        sheet.write_blank(row, column, None, look)


def _cell(column: Column, sheet: Any, formats: dict[str, Any], clock: Clock) -> Callable[[int, int, str, str], object]:
    """The function that writes a raw value, given the currency of its row."""

    def time(row: int, at: int, value: str, _: str) -> None:
        seconds = int(value) // 1000
        sheet.write_number(row, at, (seconds + clock.offset(seconds)) / _DAY + _EXCEL_EPOCH, formats["time"])

    def day(row: int, at: int, value: str, _: str) -> None:
        sheet.write_number(row, at, date.fromisoformat(value).toordinal() - _EPOCH + _EXCEL_EPOCH, formats["day"])

    match column.type:
        case "time":
            return time
        case "day":
            return day
        case "integer":
            return lambda row, at, value, _: sheet.write_number(row, at, int(value))
        case "money":
            looks = functools.cache(lambda currency: formats[str(minor_digits(currency))])
            return lambda row, at, value, currency: sheet.write_number(row, at, float(value), looks(currency))
        case "share":
            return lambda row, at, value, _: sheet.write_number(row, at, float(value), formats["share"])
        case _:
            return lambda row, at, value, _: sheet.write_string(row, at, value)


def _end_of_first_row(xml: bytes) -> int:
    return xml.index(b"</row>") + len(b"</row>")


def _inflate(part: bytes, file: IO[bytes]) -> None:
    """Write a part's XML in chunks."""
    stream, left = zlib.decompressobj(), part
    while xml := stream.decompress(left, _BLOCK):
        file.write(xml)
        left = stream.unconsumed_tail
