"""Exports of orders, from the command on the broker to the word that they are ready: seconds, rows/s, memory.

Beside, in the same run: the database's own way, pandas, plain xlsxwriter.
"""

import asyncio
import contextlib
import csv
import json
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import aio_pika
import psutil
from sqlalchemy import text
from uuid_utils.compat import uuid7

from contracts.base import Message
from contracts.broker import queue_of
from contracts.reports import CreateReport, ReportFailed, ReportReady, ReportWish
from contracts.stock import StockAdjusted
from deploy.local import direct, install
from shared.messaging import topology
from shared.persistence.database import Database, migrate
from tests.bench.common import SECRET, Figure, Machines, beside, process, wait_for

SIZES = (10_000, 100_000, 1_000_000)
XLSX_ROWS = 100_000
TIMES = 3
EVENTS_A_SECOND = 20
SAMPLE_SECONDS = 0.05
STATUS = (
    "CASE WHEN cancelled_at IS NOT NULL THEN 'CANCELLED' WHEN rejected_at IS NOT NULL THEN 'REJECTED' "
    "WHEN confirmed_at IS NOT NULL THEN 'CONFIRMED' ELSE 'PLACED' END"
)
COLUMNS = (
    f"id, {STATUS} AS status, reason, customer_id, customer_name, customer_email, currency, amount, lines, pieces, "
    "placed_at, confirmed_at, rejected_at, cancelled_at"
)
QUERY = f"SELECT {COLUMNS} FROM orders ORDER BY placed_at, id"
# Each in a process of its own; the arguments: the database's address, the query, the file.
PANDAS = """
import sys, pandas, sqlalchemy
engine = sqlalchemy.create_engine(sys.argv[1])
pandas.read_sql(sqlalchemy.text(sys.argv[2]), engine).to_csv(sys.argv[3], index=False)
"""
XLSXWRITER = """
import csv, sys, xlsxwriter
with open(sys.argv[1], newline="") as file:
    rows = [[int(cell) if cell.isdecimal() else cell for cell in row] for row in csv.reader(file)]
import time; started = time.monotonic()
with xlsxwriter.Workbook(sys.argv[2], {"constant_memory": True}) as book:
    sheet = book.add_worksheet()
    for number, row in enumerate(rows):
        for column, cell in enumerate(row):
            sheet.write_number(number, column, cell) if type(cell) is int else sheet.write_string(number, column, cell)
print(time.monotonic() - started)
"""


@dataclass
class Memory:
    """The most that a process and its children had at once, sampled, and the process's own peak; in MB."""

    pid: int
    peak: float = 0.0
    own: float = 0.0
    _over: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        process = psutil.Process(self.pid)
        while not self._over.wait(SAMPLE_SECONDS):
            with contextlib.suppress(psutil.Error, OSError):
                family = [process, *process.children(recursive=True)]
                self.peak = max(self.peak, sum(_resident(member) for member in family) / 1e6)
                found = Path(f"/proc/{self.pid}/status").read_text().partition("VmHWM:")[2].split()
                self.own = int(found[0]) / 1e3 if found else self.own  # one that has just ended has none

    @contextlib.contextmanager
    def watched(self) -> Iterator["Memory"]:
        watcher = threading.Thread(target=self.watch)
        watcher.start()
        try:
            yield self
        finally:
            self._over.set()
            watcher.join()


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:  # it has just ended
        return 0


class Service:
    """A reports service in a process of its own, and a connection to its broker."""

    def __init__(self, channel: aio_pika.abc.AbstractChannel, ends: aio_pika.abc.AbstractQueue, pid: int) -> None:
        self._channel, self._ends, self.pid = channel, ends, pid

    async def send(self, message: Message) -> None:
        target = await self._channel.get_exchange(message.exchange, ensure=False)
        body = message.model_dump_json().encode()
        await target.publish(aio_pika.Message(body, message_id=str(uuid7()), delivery_mode=2), message.key)

    async def export(self, format_: str) -> tuple[float, int]:
        """Have a report of all orders made; after how many seconds it was ready, and how many rows it has."""
        wish, report_id = ReportWish(kind="orders", format=format_), uuid7()
        started = time.monotonic()
        await self.send(CreateReport(report_id=report_id, owner=str(report_id), wish=wish))
        async with self._ends.iterator(timeout=900) as messages:
            async for message in messages:
                took = time.monotonic() - started
                await message.ack()
                said = json.loads(message.body)
                assert message.routing_key == ReportReady.key, said
                assert said["report_id"] == str(report_id), said
                return took, said["rows"]
        raise AssertionError("the broker said nothing")


def measure(machines: Machines, scale: float) -> list[Figure]:
    return [figure for kind in ("postgresql", "sqlite") for figure in asyncio.run(_measure(machines, kind, scale))]


async def _measure(machines: Machines, kind: str, scale: float) -> list[Figure]:
    urls = {service: machines.database(kind) for service in direct.DATABASES}
    sizes, xlsx_rows = [max(int(size * scale), 100) for size in SIZES], max(int(XLSX_ROWS * scale), 100)
    figures: list[Figure] = []
    peaks: list[float] = []
    filled = 0
    for size in sizes:
        started = time.monotonic()
        await direct.populate(urls, size - filled, seed=size)
        took, added, filled = time.monotonic() - started, size - filled, size
        figures.append(Figure(f"populate --direct, {added:,} orders, {kind}", round(added / took, 1), "orders/s"))
        if kind == "postgresql":  # what it would do by itself a minute later, in the midst of the figures
            await asyncio.to_thread(_psql, urls["reports"], "VACUUM ANALYZE")
        figures += await _csv(machines, kind, urls["reports"], size, peaks)
        if size == xlsx_rows:
            figures += await _xlsx(machines, kind, urls["reports"], size)
    return figures


async def _csv(machines: Machines, kind: str, url: str, size: int, peaks: list[float]) -> list[Figure]:
    """All three ways in turn, so that what the machine does meanwhile hits them alike; the best time of each."""
    ours, theirs = [], []
    async with _service(machines, url) as service:
        for _ in range(TIMES):
            theirs.append(await asyncio.to_thread(_own_way, machines, url))
            took, rows = await service.export("csv")
            assert rows == size, rows
            ours.append(took)
        with Memory(service.pid).watched() as memory:  # afterwards, for looking so often takes time
            await service.export("csv")
    seconds, best = min(ours), min(theirs)
    own_way = "COPY TO STDOUT" if kind == "postgresql" else "csv.writer over a cursor"
    name = f"csv of {size:,} orders, {kind}"
    peaks.append(memory.peak)
    within = "<= 2 x" if kind == "postgresql" and size == SIZES[-1] else None
    figures = [
        beside(name, seconds, "s", own_way, best, within),
        Figure(name, round(size / seconds, 1), "rows/s"),
        beside(
            f"{name}: peak with its children", memory.peak, "MB", "at the smallest size", peaks[0], "<= 1.2 x, <= 150"
        ),
        Figure(f"{name}: peak of the process alone", round(memory.own, 1), "MB"),
    ]
    pandas_seconds, pandas_peak = await asyncio.to_thread(_pandas, machines, url)
    figures.append(beside(name, seconds, "s", "pandas read_sql + to_csv", pandas_seconds))
    figures.append(beside(f"{name}: peak with its children", memory.peak, "MB", "pandas", pandas_peak))
    return figures


async def _xlsx(machines: Machines, kind: str, url: str, size: int) -> list[Figure]:
    """The speed of an xlsx, and what it does to the events that the same process projects."""
    async with _service(machines, url) as service:
        plain = await asyncio.to_thread(_plain_xlsx, machines, url)
        seconds, _ = await service.export("xlsx")  # the first one starts the process that formats
        calm = await _latencies(service, url, asyncio.create_task(asyncio.sleep(seconds)))
        export = asyncio.create_task(service.export("xlsx"))
        busy = await _latencies(service, url, export)
        seconds = (await export)[0]
    name = f"xlsx of {size:,} orders, {kind}"
    said = f"event projected, {kind}"
    return [
        beside(name, size / seconds, "rows/s", "plain xlsxwriter", size / plain, ">= 1 x"),
        *(
            beside(f"{said}, beside an xlsx, p{part}", _at(busy, part), "ms", "without one", _at(calm, part))
            for part in (50, 99)
        ),
    ]


async def _latencies(service: Service, url: str, while_: "asyncio.Task[Any]") -> list[float]:
    """Milliseconds from the sending of an event until it is in the read model, for as long as the task runs."""
    sent: dict[str, float] = {}
    seen: list[float] = []
    database = Database(url)

    async def look() -> bool:
        async with database.reading() as session:
            for id_ in [*sent]:
                if await session.scalar(text("SELECT 1 FROM stock_movements WHERE id = :id"), {"id": id_}):
                    seen.append((time.monotonic() - sent.pop(id_)) * 1000)
        return not sent

    async def say() -> None:
        while not while_.done():
            event = StockAdjusted(
                adjustment_id=uuid7(), sku="BENCH", delta=1, reason="bench", adjusted_by="bench",
                adjusted_at=datetime.now(UTC),
            )  # fmt: skip
            sent[str(event.adjustment_id)] = time.monotonic()
            await service.send(event)
            await asyncio.sleep(1 / EVENTS_A_SECOND)

    saying = asyncio.create_task(say())
    while not saying.done():
        await look()
        await asyncio.sleep(0.002)
    await wait_for(look, "the last events")
    await database.dispose()
    return seen


def _at(times: Sequence[float], percent: int) -> float:
    return statistics.quantiles(times, n=100, method="inclusive")[percent - 1]


@contextlib.asynccontextmanager
async def _service(machines: Machines, url: str) -> AsyncIterator[Service]:
    with machines.vhost() as amqp_url:
        await topology.declare(amqp_url)
        await asyncio.to_thread(migrate, "reports", url)
        environment = {
            "REPORTS_AMQP_URL": amqp_url,
            "REPORTS_DATABASE_URL": url,
            "REPORTS_STORAGE_URL": str(machines.folder / "reports"),
            "REPORTS_PORT": "0",
            "MALOTE_JWT_SECRET": SECRET,
            "MALOTE_LOG_FORMAT": "json",
        }
        async with await aio_pika.connect(amqp_url) as connection:
            channel = await connection.channel()
            ends = await channel.declare_queue(exclusive=True)
            for end in (ReportReady, ReportFailed):
                await ends.bind("reports", end.key)
            with process(machines.folder / "reports.log", "shared.service", environment, "reports") as child:
                lanes = [
                    await channel.declare_queue(queue_of(lane), passive=True) for lane in ("reports", "reports.export")
                ]

                async def listens() -> bool:
                    found = [await lane.declare() for lane in lanes]
                    return all(lane.consumer_count for lane in found)

                await wait_for(listens, "the reports service")
                yield Service(channel, ends, child.pid)


# -- the rivals -------------------------------------------------------------------------------------------------------


def _own_way(machines: Machines, url: str) -> float:
    """Seconds for the same rows by what the database itself brings along."""
    target, started = machines.folder / "rival.csv", time.monotonic()
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(_path(url))) as connection, target.open("w", newline="") as file:
            csv.writer(file).writerows(connection.execute(QUERY))
    else:
        with target.open("wb") as file:
            _psql(url, f"COPY ({QUERY}) TO STDOUT (FORMAT csv)", file)
    return time.monotonic() - started


def _psql(url: str, statement: str, target: IO[bytes] | None = None) -> None:
    psql = [str(install.postgres() / "psql"), "-X", "-q", "-c", statement, url]
    subprocess.run(psql, stdout=target, check=True)


def _pandas(machines: Machines, url: str) -> tuple[float, float]:
    """Seconds, and the peak in MB, of a process that has pandas do it."""
    target, started = machines.folder / "pandas.csv", time.monotonic()
    address = url.replace("postgresql://", "postgresql+psycopg://")
    child = subprocess.Popen([sys.executable, "-c", PANDAS, address, QUERY, str(target)])
    with Memory(child.pid).watched() as memory:
        assert child.wait() == 0
    return time.monotonic() - started, memory.peak


def _plain_xlsx(machines: Machines, url: str) -> float:
    """Seconds for the same rows by xlsxwriter alone, with all of them in memory beforehand."""
    _own_way(machines, url)
    command = [
        sys.executable,
        "-c",
        XLSXWRITER,
        str(machines.folder / "rival.csv"),
        str(machines.folder / "rival.xlsx"),
    ]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _path(url: str) -> str:
    return urlsplit(url).path.removeprefix("/") if url.startswith("sqlite:///") else url
