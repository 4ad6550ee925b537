"""Exports on a real broker: the same file whatever happens meanwhile, of one moment, and none holds up another."""

import asyncio
import csv
import io
import os
import random
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import select

from contracts.orders import OrderConfirmed
from contracts.reports import CancelReport, RebuildReadModel
from deploy.local import install
from services.reports.adapters.exporter import Exporter
from services.reports.adapters.storage import NotStored, Storage
from services.reports.store.choices import Choice
from services.reports.store.notifications import Notification
from services.reports.store.read_model import Order, ReadModel
from services.reports.store.reports import Report
from shared.persistence.database import Database
from tests import forking
from tests.exporting import (
    CANCELLED,
    FAILED,
    READY,
    ended,
    exporting,
    fill,
    line,
    order,
    parts,
    result,
    wanted,
    wish,
)
from tests.migrated import migrate
from tests.running import Broker, an_order, until
from tests.servers import ON_SQLITE


def rows_of(file: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.decode("utf-8-sig"), newline="")))


def ids_of(file: bytes) -> list[int]:
    return [UUID(row["order_id"]).int for row in rows_of(file)]


async def the(database_url: str, table: Any) -> list[Any]:
    database = Database(database_url)
    async with database.reading() as session:
        found = (await session.scalars(select(table))).all()
    await database.dispose()
    return list(found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "files"


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.Event]:
    """Part 2 of an export is not written until the event is set."""
    opened, put = asyncio.Event(), Storage.put

    async def put_if_open(self: Storage, name: str, data: Any) -> int:
        if name.endswith("parts/000002"):
            await opened.wait()
        return await put(self, name, data)

    monkeypatch.setattr(Storage, "put", put_if_open)
    yield opened
    opened.set()


# -- the same file ----------------------------------------------------------------------------------------------------


async def test_a_killed_export_goes_on_from_its_last_part_and_gives_the_same_file(
    broker: Broker, database_url: str, folder: Path
) -> None:
    await fill(database_url, (order(number) for number in range(2_000)))
    undisturbed, disturbed = wanted(), wanted()
    async with exporting(broker, database_url, folder, chunk_rows=100):
        [(key, _)] = await ended(broker, undisturbed)
        assert key == READY
    spy = await broker.spy(("reports", READY))
    await broker.publish(disturbed)
    for parts_before in (8, 20):  # the last time, all are there and are being put together
        process = forking.start("tests.integration.programs.reports", broker.url, database_url, str(folder))
        await until(lambda: further_than(folder, disturbed, parts_before - 1), "the parts", 60)  # noqa: B023
        await asyncio.sleep(random.uniform(0.0, 0.1))  # anywhere: before, in, or after writing
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert len(parts(folder, disturbed)) >= parts_before, "it was killed while it was at it"
    async with exporting(broker, database_url, folder):
        await spy.collect(1, 60)
        await until(lambda: only_the_result(folder, disturbed), "the parts to be removed", 60)
    assert result(folder, disturbed) == result(folder, undisturbed)
    assert ids_of(result(folder, disturbed)) == list(range(2_000))


@ON_SQLITE
async def test_what_a_killed_process_left_of_a_file_goes_with_the_parts(
    broker: Broker, database_url: str, folder: Path, gate: asyncio.Event
) -> None:
    await fill(database_url, (order(number) for number in range(300)))
    command = wanted()
    spy = await broker.spy(("reports", READY))
    async with exporting(broker, database_url, folder, chunk_rows=100):
        await broker.publish(command)
        await until(lambda: further_than(folder, command, 0), "a part")
        half = folder / str(command.report_id) / "result#1"  # where the storage's library writes before it renames
        half.write_bytes(b"order_id")
        gate.set()
        await spy.collect(1)
        await until(lambda: only_the_result(folder, command), "the rest to be removed")
    assert ids_of(result(folder, command)) == list(range(300))


async def only_the_result(folder: Path, command: Any) -> bool:
    return [path.name for path in (folder / str(command.report_id)).rglob("*")] == ["result"]


async def further_than(folder: Path, command: Any, before: int) -> bool:
    return len(parts(folder, command)) > before


async def test_chunks_that_are_delivered_twice_give_the_same_file(
    broker: Broker, database_url: str, folder: Path
) -> None:
    await fill(database_url, (order(number) for number in range(1_000)))
    once, twice = wanted(), wanted()
    async with exporting(broker, database_url, folder, chunk_rows=250):
        await ended(broker, once)
        copied = await broker.channel.declare_queue(exclusive=True)
        for key in ("report.export.v1", "report.assemble.v1"):
            await copied.bind("commands", key)
        lane = broker.channel.default_exchange

        async def double(message: Any) -> None:  # the same id, as a broker delivers again; and another, as a new wish
            for message_id in (message.message_id, f"{message.message_id}-again"):
                message.message_id = message_id
                await lane.publish(message, "reports.export")
            await message.ack()

        await copied.consume(double)
        [(key, said)] = await ended(broker, twice)
    assert key == READY
    assert said["rows"] == 1_000
    assert result(folder, twice) == result(folder, once)


async def test_both_databases_give_the_same_file(broker: Broker, postgres: Any, folder: Path, tmp_path: Path) -> None:
    names = [
        "Ana",
        '"Aninha" Souza',
        "Souza, Ana; Filhos",
        "=cmd()",
        "+55",
        "-1",
        "@ana",
        "＝1",  # noqa: RUF001
        "\\.",
        "\\N",
        "'a",
        "é🦜",
    ]
    found = [order(number, customer_name=name) for number, name in enumerate(names)]
    found.append(order(50, total=None, amount=None, confirmed_at=None, confirmed_revision=None))
    asked = [wanted(wish(options=options)) for options in ({}, {"delimiter": ";", "bom": True})]
    asked.append(wanted(wish(timezone="Asia/Kolkata")))
    files = []
    for url in (f"sqlite:///{tmp_path / 'reports.db'}", postgres.create_database("both_databases")):
        await fill(url, [Order(**row.model_dump()) for row in found])
        async with exporting(broker, url, folder, chunk_rows=5):
            commands = [command.model_copy(update={"report_id": wanted().report_id}) for command in asked]
            assert [key for key, _ in await ended(broker, *commands)] == [READY] * 3
        files.append([result(folder, command) for command in commands])
    assert files[0] == files[1]
    plain, for_spreadsheets, elsewhere = files[0]
    assert [row["customer_name"].removeprefix("'") for row in rows_of(plain)][:-1] == [
        n.removeprefix("'") for n in names
    ]
    assert [name for row in rows_of(plain) if (name := row["customer_name"])[0] in "=+-@＝"] == []  # noqa: RUF001
    assert rows_of(plain)[1]["placed_at"] == "2026-01-01 00:00:01-03"
    assert for_spreadsheets.startswith(b"\xef\xbb\xbforder_id;status;")
    assert b";2,00;1;2;2026-01-01 00:00:01;" in for_spreadsheets
    assert rows_of(elsewhere)[1]["placed_at"] == "2026-01-01 08:30:01+05:30"


# -- one moment -------------------------------------------------------------------------------------------------------


async def test_what_comes_while_an_export_runs_is_not_in_it(
    broker: Broker, database_url: str, folder: Path, gate: asyncio.Event
) -> None:
    placed = {"confirmed_at": None, "confirmed_revision": None}
    await fill(database_url, (order(number, **placed) for number in range(500)))
    command, later = wanted(), wanted()
    spy = await broker.spy(("reports", READY))
    async with exporting(broker, database_url, folder, chunk_rows=50):
        await broker.publish(command)
        await until(lambda: further_than(folder, command, 1), "the first parts")
        for number in (5, 120, 480):  # in a part that is written, in the one that is held, in one that is to come
            await broker.publish(confirmed(order(number)))
        new = [an_order() for _ in range(20)]  # placed in 2026, so among those that are to come
        for each in new:
            await broker.publish(each)
        await until(lambda: all_known(database_url, 520, 3), "all to be known")
        gate.set()
        await spy.collect(1)
        assert ids_of(result(folder, command)) == list(range(500))
        assert {row["status"] for row in rows_of(result(folder, command))} == {"PLACED"}
        assert {row["confirmed_at"] for row in rows_of(result(folder, command))} == {""}
        await ended(broker, later)
    after = rows_of(result(folder, later))
    assert len(after) == 520
    assert sum(row["status"] == "CONFIRMED" for row in after) == 3


def confirmed(row: Order) -> OrderConfirmed:
    said = an_order([("A", 2)], row.id).model_dump() | {"confirmed_at": "2026-02-01T00:00:00Z"}
    return OrderConfirmed(**said)


async def all_known(database_url: str, orders: int, confirmed: int) -> bool:
    found = await the(database_url, Order)
    return len(found) == orders and sum(row.confirmed_at is not None for row in found) == confirmed


async def test_an_export_whose_rows_were_rebuilt_under_it_fails_and_says_so(
    broker: Broker, database_url: str, folder: Path, gate: asyncio.Event
) -> None:
    await fill(database_url, (order(number) for number in range(500)))
    command = wanted()
    async with exporting(broker, database_url, folder, chunk_rows=50):
        spy = await broker.spy(("reports", FAILED))
        await broker.publish(command)
        await until(lambda: further_than(folder, command, 1), "the first parts")
        database = Database(database_url)
        async with database.transaction() as session:
            model = await session.get(ReadModel, 1)
            assert model
            model.revision = model.emptied_at = 2
        await database.dispose()
        gate.set()
        [said] = await spy.collect(1)
    assert said["reason"] == "read_model_rebuilt"


async def test_nothing_is_exported_while_the_read_model_is_filled_again(
    broker: Broker, database_url: str, folder: Path
) -> None:
    await fill(database_url, [order(1)])
    nobody = "http://127.0.0.1:9/"
    async with exporting(broker, database_url, folder, orders_url=nobody, stock_url=nobody):
        spy = await broker.spy(("commands", "report.fetch_page.v1"))
        await broker.publish(RebuildReadModel())
        await spy.collect(1)
        [(key, said)] = await ended(broker, wanted())
    assert (key, said["reason"]) == (FAILED, "read_model_rebuilding")


# -- side by side -----------------------------------------------------------------------------------------------------


async def test_a_small_export_does_not_wait_for_a_huge_one(broker: Broker, postgres: Any, folder: Path) -> None:
    url = postgres.create_database("huge")
    await asyncio.to_thread(migrate, "reports", url)
    connection = await asyncpg.connect(url)
    await connection.execute(
        """INSERT INTO orders (id, revision, placed_at, customer_id, customer_name, customer_email, currency, lines,
           pieces) SELECT lpad(to_hex(n), 32, '0')::uuid, 1, $1::bigint + n, CASE WHEN n <= 10 THEN 'small'
           ELSE 'c' END, 'Ana', 'ana@example.com', 'BRL', 1, 1 FROM generate_series(1, 400000) n""",
        1_767_236_400_000,
    )
    await connection.execute("UPDATE read_model SET revision = 1")
    await connection.close()
    huge = wanted(wish(format_="xlsx"))
    small = [wanted(wish(format_=format_, filters={"customer_id": "small"})) for format_ in ("csv", "jsonl", "xlsx")]
    async with exporting(broker, url, folder):
        await broker.publish(huge)
        await until(lambda: further_than(folder, huge, 0), "the huge one's first part")
        for command in small:
            [(key, said)] = await ended(broker, command)
            assert (key, said["rows"]) == (READY, 10)
        assert {r.status for r in await the(url, Report) if r.id == huge.report_id} == {"RUNNING"}
        spy = await broker.spy(("reports", CANCELLED))
        await broker.publish(CancelReport(report_id=huge.report_id))
        await spy.collect(1)
        await until(lambda: nothing_left(folder, huge), "its parts to be removed")


async def nothing_left(folder: Path, command: Any) -> bool:
    return not [name for _, *names in os.walk(folder / str(command.report_id)) for some in names for name in some]


# -- ends -------------------------------------------------------------------------------------------------------------


async def test_a_cancelled_export_stops_between_two_parts_and_leaves_nothing(
    broker: Broker, database_url: str, folder: Path, gate: asyncio.Event
) -> None:
    await fill(database_url, (order(number) for number in range(500)))
    command = wanted()
    async with exporting(broker, database_url, folder, chunk_rows=50):
        spy = await broker.spy(("reports", CANCELLED), ("reports", "report.cancel_refused.v1"))
        job_id = await broker.publish(command)
        await until(lambda: further_than(folder, command, 1), "the first parts")
        await broker.publish(CancelReport(report_id=command.report_id))
        [said] = await spy.collect(1)
        assert said == {"report_id": str(command.report_id), "report_job_id": job_id}
        gate.set()
        await until(lambda: idle(broker), "the chain to end")
        await until(lambda: nothing_left(folder, command), "its parts to be removed")
        await broker.publish(CancelReport(report_id=command.report_id))
        assert (await spy.collect(2))[1]["reason"] == "already_cancelled"


async def idle(broker: Broker) -> bool:
    return not any([await broker.depth(lane) for lane in ("reports", "reports.export")])


async def test_a_part_that_cannot_be_stored_leaves_no_connection_behind(
    broker: Broker, postgres: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.create_database("nothing_left")
    await fill(url, (order(number, customer_name="Ana" * 1_000) for number in range(5_000)))
    command, put = wanted(), Storage.put

    async def put_a_little(self: Storage, name: str, data: Any) -> int:
        await anext(data)
        raise NotStored("the disk is away")

    async with exporting(broker, url, folder) as service:
        monkeypatch.setattr(Storage, "put", put_a_little)
        retrying = await broker.spy(("jobs", "job.retrying.v1"))
        ready = await broker.spy(("reports", READY))
        await broker.publish(command)
        await retrying.collect(1)
        await until(lambda: all_returned(service.database), "all connections to be returned")
        monkeypatch.setattr(Storage, "put", put)
        await ready.collect(1)
    assert len(rows_of(result(folder, command))) == 5_000


async def all_returned(database: Database) -> bool:
    pool: Any = database._reader.pool
    return pool.checkedout() == 0


@ON_SQLITE
async def test_storage_that_comes_back_delays_an_export_and_does_it_no_harm(
    broker: Broker, database_url: str, folder: Path
) -> None:
    await fill(database_url, (order(number) for number in range(300)))
    command = wanted()
    async with exporting(broker, database_url, folder, chunk_rows=50):
        away = folder.with_name("away")
        folder.rename(away)
        folder.write_text("not a folder")
        retrying = await broker.spy(("jobs", "job.retrying.v1"))
        ready = await broker.spy(("reports", READY))
        job_id = await broker.publish(command)
        await retrying.collect(1)
        assert retrying.seen[0].correlation_id == job_id
        folder.unlink()
        away.rename(folder)
        await ready.collect(1)
    assert ids_of(result(folder, command)) == list(range(300))


@pytest.fixture
async def small_disk(tmp_path: Path) -> AsyncIterator[Path]:
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@ON_SQLITE
async def test_a_full_disk_fails_an_export_with_a_clear_reason_and_leaves_nothing(
    broker: Broker, database_url: str, small_disk: Path
) -> None:
    await fill(database_url, (order(number, customer_name="Ana" * 50) for number in range(2_000)))
    command = wanted(email="ana@example.com")
    async with exporting(broker, database_url, small_disk, chunk_rows=500):
        mails = await broker.spy(("commands", "mail.report.v1"))
        retrying = await broker.spy(("jobs", "job.retrying.v1"))
        [(key, said)] = await ended(broker, command)
        assert key == FAILED
        assert said["reason"] == "export_failed"
        assert said["detail"] == "writing a report's file failed: no space is left"
        assert len(await retrying.collect(2)) == 2, "it was tried again, as often as the ladder has steps"
        [mail] = await mails.collect(1)
        assert (mail["recipient"], mail["link"], mail["detail"]) == ("ana@example.com", None, said["detail"])
        await until(lambda: nothing_left(small_disk, command), "its parts to be removed")
    [told] = await the(database_url, Notification)
    assert told.content["detail"] == said["detail"]
    [report] = await the(database_url, Report)
    assert (report.status, report.sha256, report.link_key) == ("FAILED", None, None)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"row_limit": 99}, "too_many_rows"), ({"storage_limit_mb": 1, "row_limit": 10_000}, "storage_limit")],
)
@ON_SQLITE
async def test_an_export_that_comes_to_a_limit_says_which(
    broker: Broker, database_url: str, folder: Path, limits: dict[str, int], reason: str
) -> None:
    name = "Ana" * (3_000 if reason == "storage_limit" else 1)
    await fill(database_url, (order(number, customer_name=name) for number in range(200)))
    command = wanted()
    async with exporting(broker, database_url, folder, chunk_rows=50, **limits):
        [(key, said)] = await ended(broker, command)
        assert (key, said["reason"]) == (FAILED, reason)
        await until(lambda: nothing_left(folder, command), "its parts to be removed")


@ON_SQLITE
async def test_whoever_asked_is_told_in_the_way_that_was_chosen(
    broker: Broker, database_url: str, folder: Path
) -> None:
    chosen = Choice(reader="bia", mail=True, in_app=False, email="bia@example.com", locale="en")
    silent = Choice(reader="caio", mail=False, in_app=True, email="caio@example.com", locale="en")
    changed = Choice(reader="dora", mail=True, in_app=True, email="stranger@example.com", locale="en")
    operator = Choice(reader="\x1folga", mail=True, in_app=False, email="olga@example.com", locale="en")
    await fill(database_url, [order(1), chosen, silent, changed, operator])  # type: ignore[list-item]
    async with exporting(broker, database_url, folder):
        mails = await broker.spy(("commands", "mail.report.v1"))
        role = "customer"
        asked = [
            wanted(owner="ana", role=role, email="ana@example.com"),
            wanted(owner="bia", role=role, email="bia@example.com"),
            wanted(owner="caio", role=role, email="caio@example.com"),
            wanted(owner="dora", role=role, email="dora@example.com"),  # where she wanted it when she asked
            wanted(owner="olga", role="operator", email="o@example.com"),
        ]
        await ended(broker, *asked)
        written = {mail["recipient"]: mail for mail in await mails.collect(4)}
    assert {address: mail["locale"] for address, mail in written.items()} == {
        "ana@example.com": "pt-BR",
        "bia@example.com": "en",
        "dora@example.com": "en",
        "olga@example.com": "en",
    }
    address = f"http://127.0.0.1:8000/v1/reports/{asked[0].report_id}/download?expires="
    assert written["ana@example.com"]["link"].startswith(address)
    assert {told.reader for told in await the(database_url, Notification)} == {"ana", "caio", "dora"}


@ON_SQLITE
async def test_progress_is_told_after_each_part(broker: Broker, database_url: str, folder: Path) -> None:
    await fill(database_url, (order(number) for number in range(100)))
    async with exporting(broker, database_url, folder, chunk_rows=25):
        spy = await broker.spy(("jobs", "job.progressed.v1"))
        await ended(broker, wanted())
        told = await spy.collect(4)
    assert [(said["done"], said["total"], said["unit"]) for said in told] == [
        (n, 100, "rows") for n in (25, 50, 75, 100)
    ]
    assert all(said["rate"] > 0 for said in told)
    assert told[-1]["seconds_left"] == 0


# -- kinds and formats ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["orders", "order-lines", "stock-movements", "sales-summary"])
@ON_SQLITE
async def test_a_report_of_nothing_is_a_header(broker: Broker, database_url: str, folder: Path, kind: str) -> None:
    await fill(database_url, [])
    install.pango()
    formats = ("csv", "jsonl", "parquet", "xlsx", *(("html", "pdf") if kind == "sales-summary" else ()))
    asked = [wanted(wish(kind, format_)) for format_ in formats]
    async with exporting(broker, database_url, folder):
        assert [(key, said.get("rows")) for key, said in await ended(broker, *asked)] == [(READY, 0)] * len(asked)
    assert len(result(folder, asked[0]).splitlines()) == 1
    assert all(result(folder, command) for command in asked if command.wish.format != "jsonl")


async def test_filters_and_the_time_range_choose_the_rows(broker: Broker, database_url: str, folder: Path) -> None:
    cancelled = {"cancelled_at": 1_767_300_000_000, "cancelled_revision": 1}
    found = [order(1), order(2, **cancelled), order(3, customer_id="bia"), order(90_000)]
    lines = [line(found[0], "A"), line(found[1], "B"), line(found[2], "A"), line(found[2], "B"), line(found[3], "C")]
    await fill(database_url, [*found, *lines])
    asks: list[tuple[ReportAsk, list[int]]] = [
        ({}, [1, 2, 3, 90_000]),
        ({"filters": {"status": "CANCELLED"}}, [2]),
        ({"filters": {"customer_id": "bia"}}, [3]),
        ({"filters": {"sku": "B"}}, [2, 3]),
        ({"from": "2026-01-02"}, [90_000]),
        ({"to": "2026-01-02"}, [1, 2, 3]),
        ({"from": "2026-01-01T00:00:02-03:00", "to": "2026-01-01T00:00:03-03:00"}, [2]),
        ({"from": "2026-01-02", "timezone": "UTC"}, [90_000]),
        ({"from": "2026-01-01", "to": "2026-01-01T03:00:02", "timezone": "UTC"}, [1]),
    ]
    commands = [wanted(wish(**ask)) for ask, _ in asks]
    async with exporting(broker, database_url, folder):
        await ended(broker, *commands)
        lines_of_b = wanted(wish("order-lines", filters={"sku": "B", "status": "CONFIRMED"}))
        await ended(broker, lines_of_b)
    assert [ids_of(result(folder, command)) for command in commands] == [numbers for _, numbers in asks]
    assert [(UUID(r["order_id"]).int, r["sku"]) for r in rows_of(result(folder, lines_of_b))] == [(3, "B")]


ReportAsk = dict[str, Any]


async def test_the_summary_counts_by_local_day_and_sku(broker: Broker, database_url: str, folder: Path) -> None:
    rejected = {"confirmed_at": None, "confirmed_revision": None, "rejected_at": 1, "rejected_revision": 1}
    late = 100 * 86_400
    found = [order(0), order(10, **rejected), order(86_399), order(86_400), order(late)]
    await fill(database_url, [*found, *(line(each) for each in found), line(found[0], "B")])
    local, elsewhere = wanted(wish("sales-summary")), wanted(wish("sales-summary", timezone="UTC"))
    only_b = wanted(wish("sales-summary", filters={"sku": "B"}))
    async with exporting(broker, database_url, folder):
        await ended(broker, local, elsewhere, only_b)
    counted = [
        (
            row["day"],
            row["sku"],
            row["orders"],
            row["pieces"],
            row["revenue"],
            row["rejected_orders"],
            row["rejected_share"],
        )
        for row in rows_of(result(folder, local))
    ]
    assert counted == [
        ("2026-01-01", "A", "3", "4", "4.00", "1", "0.3333"),
        ("2026-01-01", "B", "1", "2", "2.00", "0", "0.0000"),
        ("2026-01-02", "A", "1", "2", "2.00", "0", "0.0000"),
        ("2026-04-11", "A", "1", "2", "2.00", "0", "0.0000"),
    ]
    days = [(row["day"], row["orders"]) for row in rows_of(result(folder, elsewhere)) if row["sku"] == "A"]
    assert days == [("2026-01-01", "2"), ("2026-01-02", "2"), ("2026-04-11", "1")]
    assert [row["sku"] for row in rows_of(result(folder, only_b))] == ["B"]


async def test_a_bucket_serves_as_well_as_a_folder(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    for name, value in {
        "AWS_ENDPOINT": address,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "MALOTE_SECRETS_DIR": str(tmp_path / "secrets"),
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "secrets").mkdir()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        (tmp_path / "secrets" / name).write_text("secret\n")
    subprocess.run(["curl", "-s", "-f", "-X", "PUT", f"{address}/exports"], check=True)
    url = f"sqlite:///{tmp_path / 'reports.db'}"
    await fill(url, (order(number) for number in range(100)))
    command = wanted()
    try:
        async with exporting(broker, url, tmp_path, storage_url="s3://exports/malote", chunk_rows=30) as service:
            [(key, said)] = await ended(broker, command)
            assert key == READY
            name = f"{command.report_id}/result"
            storage = service.resources.get(Exporter).storage
            file = b"".join([some async for some in storage.read(name, 0, said["bytes"] - 1)])
            await until(lambda: no_parts(command, storage), "the parts to be removed", 60)
    finally:
        server.stop()
    assert ids_of(file) == list(range(100))


async def no_parts(command: Any, storage: Storage) -> bool:
    from services.reports.adapters.storage import Missing

    try:
        await storage.size(f"{command.report_id}/parts/000000")
    except Missing:
        return True
    return False
