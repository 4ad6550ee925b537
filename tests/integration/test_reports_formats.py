"""From the tables to the file, in every format and on both databases, read back by programs of others: the rows that a
query by hand would give, whatever customers and products are called."""

import asyncio
import contextlib
import csv
import io
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import openpyxl
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from contracts.reports import AssembleReport, ExportChunk, ReportWish
from services.reports import domain
from services.reports.adapters.exporter import Exporter
from services.reports.store.read_model import Line, Order
from services.reports.store.reports import Report
from shared.persistence.database import Database
from tests.exporting import line, order, result, wanted, wish
from tests.migrated import migrate
from tests.running import settings_for
from tests.servers import ON_SQLITE
from tests.spreadsheets import FORMULAS, cells_anywhere, harmless

ZONE = ZoneInfo("America/Sao_Paulo")
AWKWARD = [
    '"',
    '""',
    "a\nb",
    "a,b",
    "a;b",
    "=cmd()",
    "+1",
    "-1",
    "@a",
    "\uff1dx",
    "a;=1+1;x",
    "a,=1+1,x",
    'a;"=1+1',
    "a\n @b,-1",
    ",;-x",
    "\\.",
    "\\N",
    "'",
    "🦜",
    "NULL",
    "1",
    "é",
]
names = st.one_of(
    st.sampled_from(AWKWARD),
    st.text(
        st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")) | st.sampled_from('"\n=;,'), min_size=1
    ),
)
skus = st.lists(names.map(lambda name: name[:40]), min_size=4, max_size=4, unique=True)


@contextlib.asynccontextmanager
async def holding(database_url: str, folder: Path, rows: list[Order | Line]) -> AsyncIterator[Exporter]:
    """The exporter at work on a read model of just these rows."""
    told = settings_for("reports", "amqp://nobody@127.0.0.1:9/", database_url, storage_url=str(folder), chunk_rows=40)
    database = Database(database_url)
    async with database.transaction() as session:
        for table in ("order_lines", "orders"):
            await session.execute(text(f"DELETE FROM {table}"))
        session.add_all(rows)
    yield Exporter(told, database)  # type: ignore[arg-type]
    await database.dispose()


async def export(exporter: Exporter, asked: ReportWish, folder: Path) -> bytes:
    """A file as the lane's handlers would have it made, message by message."""
    command = wanted(asked)
    fixed: dict[str, Any] = {"job_id": "job", "filename": "file", "created_at": 0, "revision": 1, "chunk_rows": 40}
    of = Report(id=command.report_id, owner=str(uuid4()), wish=asked.model_dump(mode="json"), status="RUNNING", **fixed)
    follow: ExportChunk | AssembleReport = ExportChunk(report_id=of.id, part=0)
    while isinstance(follow, ExportChunk):
        follow = domain.following(follow, await exporter.write_part(of, follow))
    await exporter.assemble(of, follow)
    return result(folder, command)


def by_hand(orders: list[Order], lines: list[Line]) -> list[dict[str, Any]]:
    """What a person would find in the tables."""
    known = {each.id: each for each in orders}
    return [
        {
            "order_id": str(each.order_id),
            "sku": each.sku,
            "name": each.name,
            "quantity": each.quantity,
            "currency": "BRL",
            "unit_price": each.price,
            "total": each.amount,
            "status": "CONFIRMED",
            "customer_id": known[each.order_id].customer_id,
            "customer_name": known[each.order_id].customer_name,
            "placed_at": datetime.fromtimestamp(each.placed_at / 1000, UTC).astimezone(ZONE),
        }
        for each in sorted(lines, key=lambda each: (each.placed_at, each.order_id))
    ]


def in_order(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Rows without what a database decides by its own collation: in which order one order's lines come."""
    return sorted([str(value) for value in row.values()] for row in rows)


@given(people=st.lists(st.tuples(names, skus), min_size=30, max_size=30))
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
async def test_every_format_reads_back_equal_to_a_query_by_hand(
    people: list[tuple[str, list[str]]], database_url: str, tmp_path: Path
) -> None:
    orders = [order(n, customer_id=name[:64], customer_name=name) for n, (name, _) in enumerate(people)]
    lines = [line(of, sku, name=sku) for of, (_, found) in zip(orders, people, strict=True) for sku in found]
    expected = by_hand(orders, lines)
    await asyncio.to_thread(migrate, "reports", database_url)
    async with holding(database_url, tmp_path, [Order(**of.model_dump()) for of in orders] + lines) as exporter:
        files = {
            kind: await export(exporter, wish("order-lines", kind), tmp_path)
            for kind in ("csv", "jsonl", "parquet", "xlsx")
        }

    found = list(csv.DictReader(io.StringIO(files["csv"].decode(), newline="")))
    guarded = [
        {name: harmless(value) if isinstance(value, str) else value for name, value in row.items()} for row in expected
    ]
    assert in_order(found) == in_order(
        [row | {"placed_at": f"{row['placed_at']:%Y-%m-%d %H:%M:%S}-03"} for row in guarded]
    )

    found = [json.loads(each) for each in files["jsonl"].split(b"\n")[:-1]]
    said = [row | {"placed_at": row["placed_at"].isoformat(timespec="milliseconds")} for row in expected]
    assert in_order(found) == in_order(said)

    found = pyarrow.parquet.read_table(pyarrow.BufferReader(files["parquet"])).to_pylist()
    money = [row | {name: f"{row[name]:.2f}" for name in ("unit_price", "total")} for row in found]
    assert in_order(money) == in_order(expected)

    header, *cells = openpyxl.load_workbook(io.BytesIO(files["xlsx"])).active.iter_rows(values_only=True)
    found = [dict(zip(header, row, strict=True)) for row in cells]
    money = [row | {name: f"{row[name]:.2f}" for name in ("unit_price", "total")} for row in found]
    local = [row | {"placed_at": row["placed_at"].replace(tzinfo=None)} for row in expected]
    assert in_order(money) == in_order(local)


@pytest.mark.parametrize("delimiter", [",", ";"])
@ON_SQLITE
async def test_no_text_becomes_a_formula_wherever_a_spreadsheet_splits(
    delimiter: str, database_url: str, tmp_path: Path
) -> None:
    """PostgreSQL writes such a file by itself; for SQLite, we do."""
    await asyncio.to_thread(migrate, "reports", database_url)
    hidden = [
        f"{before}{start}1{after}"
        for start in FORMULAS
        for before in (*",;\t\n\r ", ';"', "; ")
        for after in (";", ",x")
    ]
    rows = [order(number, customer_name=f"a{text}{text}") for number, text in enumerate(hidden)]
    rows += [order(len(rows) + number, customer_name=text) for number, text in enumerate(hidden)]
    async with holding(database_url, tmp_path, list(rows)) as exporter:
        file = (await export(exporter, wish(options={"delimiter": delimiter}), tmp_path)).decode()
    found = csv.DictReader(io.StringIO(file, newline=""), delimiter=delimiter)
    assert [row["customer_name"] for row in found] == [harmless(row.customer_name) for row in rows]
    assert not [cell for cell in cells_anywhere(file) if cell.startswith(FORMULAS)]


@pytest.mark.parametrize("name", ["100%", "a\\b", "it's", "$1", ":name", "%(name)s", "?", '"', "--", "é🦜"])
async def test_a_filter_means_just_what_it_says(name: str, database_url: str, tmp_path: Path) -> None:
    await asyncio.to_thread(migrate, "reports", database_url)
    rows = [order(number, customer_id="x" if number == 2 else name) for number in (1, 2, 3, 4)]
    async with holding(database_url, tmp_path, list(rows)) as exporter:
        file = await export(exporter, wish(filters={"customer_id": name}), tmp_path)
    assert [row["order_id"][-1] for row in csv.DictReader(io.StringIO(file.decode(), newline=""))] == ["1", "3", "4"]
