"""The outside world: object storage, and the database's own way to hand out many rows."""

import asyncio
import codecs
import contextlib
import csv
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID
from zoneinfo import ZoneInfo

import httpx
import obstore
import psutil
import structlog
from anyio import to_process
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.base import minor_digits
from contracts.reports import AssembleReport, ExportChunk, ReportWish, Source
from services.reports import domain, store, templates
from services.reports.domain import Part
from services.reports.settings import ReportsSettings
from services.reports.store import Key, Report, Rows
from shared.config import secret_files
from shared.http.tokens import issue_token
from shared.messaging.handler import Poison
from shared.observability import tracing
from shared.persistence.database import Database, Outage

log = structlog.get_logger(__name__)

BLOCK_BYTES = 1024 * 1024
"""What is read at once: of a bucket, a request each."""

PIECE_BYTES = 5 * 1024 * 1024
"""What is written at once: the least that S3 takes as a piece of an object."""

COPY_BYTES = 1024 * 1024
"""What is taken from PostgreSQL before it is handed on."""

COPY_SECONDS = 600.0
"""How long a part may take on its way from the database to the storage."""

SCRATCH = "malote-report-"
BOM = codecs.BOM_UTF8
PAGE_ENTRIES = 100
TOKEN_SECONDS = 60


class NotStored(Exception):
    """The storage did not do what it was asked to; a later try may succeed. The text names no path and no key."""


class Missing(Exception):
    """There is no such object."""


class Storage:
    """Objects in a folder, or in a bucket. A write is whole or not at all. Raises `NotStored` and `Missing`."""

    def __init__(self, url: str) -> None:
        self._store: ObjectStore = _local(url) if url.startswith("file:") else from_url(url, config=_login())

    async def put(self, name: str, data: bytes | Path | AsyncIterator[bytes]) -> int:
        """Write an object, in the place of an earlier one; how many bytes it has."""
        blocks = _blocks(data) if isinstance(data, Path) else data  # the library would take a file into memory
        with _plainly("writing"):
            # One piece on its way at a time: it is all that there is of an object in memory.
            await obstore.put_async(self._store, name, blocks, chunk_size=PIECE_BYTES, max_concurrency=1)
        return await self.size(name)

    async def save(self, name: str, target: Path) -> None:
        """Copy an object to a file."""
        with target.open("wb") as file:
            async for some in self.stream(name):
                await asyncio.to_thread(file.write, some)

    async def stream(self, name: str) -> AsyncIterator[bytes]:
        """A whole object, block by block."""
        async for some in self.read(name, 0, await self.size(name) - 1):
            yield some

    async def size(self, name: str) -> int:
        """How many bytes an object has."""
        with _plainly("reading"):
            return (await obstore.head_async(self._store, name))["size"]

    async def read(self, name: str, first: int, last: int) -> AsyncIterator[bytes]:
        """The bytes from `first` to `last`, both included, block by block. (The library's own stream of a file comes in
        blocks of 8 KiB, and takes ten times as long.)"""
        for start in range(first, last + 1, BLOCK_BYTES):
            with _plainly("reading"):
                end = min(start + BLOCK_BYTES, last + 1)
                yield bytes(await obstore.get_range_async(self._store, name, start=start, end=end))

    async def remove(self, prefix: str) -> None:
        """Remove all objects whose names begin with `prefix`, which ends with a slash."""
        with _plainly("removing"):
            if isinstance(self._store, LocalStore):  # also what a killed process left half-written, which has no name
                await asyncio.to_thread(_remove_folder, Path(str(self._store.prefix)) / prefix)
                return
            async for found in obstore.list(self._store, prefix):
                names = [entry["path"] for entry in found]
                with contextlib.suppress(Missing):  # by another process, at the same time
                    await obstore.delete_async(self._store, names)

    async def remove_unfinished(self, name: str) -> None:
        """Remove what killed processes left of an object they were writing. (In a bucket, a rule of its own does.)"""
        if isinstance(self._store, LocalStore):
            with _plainly("removing"):
                await asyncio.to_thread(_remove_unfinished, Path(str(self._store.prefix)) / name)


def _login() -> Any:
    """AWS_* as files. The library looks at the environment by itself, which wins over them."""
    found = secret_files.read(os.environ.get(secret_files.VARIABLE), "AWS_")
    return {name: value for name, value in found.items() if name not in os.environ}


async def _blocks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
            yield block


def _remove_folder(folder: Path) -> None:
    def fail(_: Any, __: Any, failure: Any) -> None:
        if not isinstance(failure[1], FileNotFoundError):  # another one removes it too
            raise failure[1]

    shutil.rmtree(folder, onerror=fail)


def _remove_unfinished(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # another one removes the folder
        for left in path.parent.glob(f"{path.name}#*"):  # the library writes there, then renames
            left.unlink(missing_ok=True)


def _local(url: str) -> LocalStore:
    return LocalStore(Path(unquote(urlsplit(url).path)), mkdir=True, automatic_cleanup=True)


@contextlib.contextmanager
def _plainly(doing: str) -> Iterator[None]:
    """Say what failed without the paths, hosts and requests that the library's errors are full of."""
    try:
        yield
    except FileNotFoundError as error:
        raise Missing("there is no such object") from error
    except (BaseError, OSError) as error:
        is_full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        why = "no space is left" if is_full else "the storage does not do it now"
        raise NotStored(f"{doing} a report's file failed: {why}") from error


@contextlib.contextmanager
def _for_customers(doing: str) -> Iterator[None]:
    """Whoever asked for a report is told why it failed: of an error that nobody foresaw, only that it is in the log."""
    try:
        yield
    except (NotStored, Incomplete, Stopped, Outage):
        raise
    except Exception as error:
        is_full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        why = "no space is left" if is_full else "the service's operator finds the reason in its log"
        log.warning("export: failed", doing=doing, exc_info=error)
        raise Incomplete(f"{doing} failed: {why}") from error


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder of this process, gone at the end; what a killed process left is removed by the next one."""
    with tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{os.getpid()}-") as folder:
        yield Path(folder)


def _remove_scratch_of_the_dead() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*-*"):
        owner = folder.name.removeprefix(SCRATCH).partition("-")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


async def _all(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    """The results of work that is done at once. If some fails, the rest comes to its end first: a part must not appear
    after its failure was told."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


class Incomplete(Exception):
    """A file is not what it should be."""


class Stopped(Exception):
    """An export came to a limit: `reason` is for programs, the text for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Copied:
    """What a COPY says, block by block. Its reader may leave at any time; its connection is busy until all is said."""

    def __init__(self, mark: bytes) -> None:
        self._blocks: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
        self._block, self._is_wanted = bytearray(mark), True

    def begin(self, connection: Any, query: str, options: dict[str, Any]) -> None:
        self._copying = asyncio.create_task(self._copy(connection, query, options))

    async def _copy(self, connection: Any, query: str, options: dict[str, Any]) -> str:
        try:
            said = await connection.copy_from_query(
                query, output=self._take, format="csv", timeout=COPY_SECONDS, **options
            )
            await self._hand_over()
            return str(said)
        finally:
            if self._is_wanted:
                await self._blocks.put(None)

    async def _take(self, more: bytes) -> None:
        if self._is_wanted:
            self._block.extend(more)
            if len(self._block) >= COPY_BYTES:
                await self._hand_over()

    async def _hand_over(self) -> None:
        if self._is_wanted and self._block:
            await self._blocks.put(bytes(self._block))
            self._block.clear()

    async def blocks(self) -> AsyncIterator[bytes]:
        """All blocks. Raises what the COPY raises."""
        while (some := await self._blocks.get()) is not None:
            yield some
        await self._copying

    async def rows(self) -> int:
        """How many rows it said: `COPY 200000`."""
        return int((await self._copying).split()[-1])

    async def end(self) -> None:
        """Come to the end, whatever was read of it."""
        self._is_wanted = False
        if not self._blocks.empty():  # one block may wait to be handed over; after it, none does
            self._blocks.get_nowait()
        await asyncio.gather(self._copying, return_exceptions=True)


class Owners:
    """The services that own what the read model shows, asked as an operator."""

    def __init__(self, settings: ReportsSettings) -> None:
        self._settings = settings
        timeout, trusted = httpx.Timeout(10.0, connect=2.0), settings.tls.context
        self._client = httpx.AsyncClient(timeout=timeout, verify=trusted, trust_env=False)

    async def page(self, source: Source, after: str | None) -> tuple[list[dict[str, Any]], bool]:
        """The next page of a source, and whether there is more after it. Raises `httpx.HTTPError` without an answer."""
        owner = self._settings.orders_url if source == "orders" else self._settings.stock_url
        address = f"{str(owner).rstrip('/')}/v1/{source}"
        params = {"limit": PAGE_ENTRIES} | ({"starting_after": after} if after else {})
        headers = {"authorization": f"Bearer {self._token()}"}
        cause = tracing.in_hand.get()
        with tracing.step("GET", {"http.request.method": "GET", "server.address": owner.host}):
            headers["traceparent"] = tracing.current(cause.traceparent if cause else None)
            answer = await self._client.get(address, params=params, headers=headers)
        found = answer.raise_for_status().json()
        return found["data"], found["has_more"]

    def _token(self) -> str:
        if self._settings.token:
            return self._settings.token.get_secret_value()
        if self._settings.jwt_secret:
            secret = self._settings.jwt_secret.get_secret_value()
            return issue_token(secret, subject="reports", role="operator", ttl=TOKEN_SECONDS, read_only=True)
        raise Poison("reports has no token to read from orders and stock with: set REPORTS_TOKEN")


class Exporter:
    """Writes the parts of reports, and puts them together."""

    def __init__(self, settings: ReportsSettings, database: Database) -> None:
        self.settings, self.database, self.storage = settings, database, Storage(settings.storage)
        self.owners = Owners(settings)
        _remove_scratch_of_the_dead()

    async def write_part(self, report: Report, command: ExportChunk) -> Part:
        """Write one part; again, it is the same. Raises `Stopped` at a limit, `NotStored` and `Incomplete`."""
        wish = ReportWish.model_validate(report.wish)
        write = self._write_days if wish.kind == "sales-summary" else self._write_rows
        with _for_customers("making a part of the report"):
            part = await write(wish, report, command)
            async with self.database.reading() as session:
                await self._check(session, report, command, part)
        return part

    async def assemble(self, report: Report, command: AssembleReport) -> tuple[int, str]:
        """Put the parts together; the file's size and SHA-256. Raises `NotStored` and `Incomplete`, and `Stopped` for a
        pdf that this machine cannot write."""
        if command.total not in (None, command.rows):
            raise Incomplete(f"{command.rows} rows were written where {command.total} were counted")
        wish, name = ReportWish.model_validate(report.wish), domain.result_name(report.id)
        names = [domain.part_name(report.id, part) for part in range(command.parts)]
        with _for_customers("putting the report together"):
            if wish.format not in templates.CONCATENATED:
                return await self._assemble(names, wish, name)
            digest = hashlib.sha256()
            size = await self.storage.put(name, self._hashed(names, digest))
        if size != command.bytes:
            raise Incomplete(f"the file has {size} bytes where its parts had {command.bytes}")
        return size, digest.hexdigest()

    async def _assemble(self, names: list[str], wish: ReportWish, name: str) -> tuple[int, str]:
        with _scratch() as folder:
            target = folder / "result"
            for number, part in enumerate(names):
                await self.storage.save(part, folder / f"{number:06}")
            try:
                await to_process.run_sync(templates.assemble_files, folder, len(names), wish, target)
            except templates.PangoMissing as error:
                raise Stopped("cannot_write_pdf", str(error)) from error
            sha256 = await asyncio.to_thread(_sha256, target)
            return await self.storage.put(name, target), sha256

    async def remove(self, report_id: UUID, *, result: bool) -> None:
        """Remove a report's parts, and with `result` all that there is of it."""
        if result:
            await self.storage.remove(domain.folder(report_id))
        else:
            await self.storage.remove(domain.parts(report_id))
            await self.storage.remove_unfinished(domain.result_name(report_id))

    async def _hashed(self, names: list[str], digest: Any) -> AsyncIterator[bytes]:
        for name in names:
            async for some in self.storage.stream(name):
                await asyncio.to_thread(digest.update, some)
                yield some

    async def _check(self, session: AsyncSession, report: Report, command: ExportChunk, part: Part) -> None:
        if await store.emptied_at(session) > report.revision:  # asked after reading: it may have been empty by then
            raise Stopped("read_model_rebuilt", "What it shows was rebuilt meanwhile; ask for it again.")
        if (part.total or command.done + part.rows) > self.settings.row_limit:
            raise Stopped("too_many_rows", f"A report has at most {self.settings.row_limit} rows; narrow it down.")
        stored = await store.stored_bytes(session, report.owner)
        if stored + command.bytes + part.bytes > self.settings.storage_limit_mb * 1_000_000:
            raise too_much(self.settings)

    # -- rows -----------------------------------------------------------------------------------------------------

    async def _write_rows(self, wish: ReportWish, report: Report, command: ExportChunk) -> Part:
        found = store.rows(wish, report.revision)
        limit = domain.part_rows(wish, report.chunk_rows)
        by_the_database = wish.format == "csv" and not self.database.is_sqlite
        # Each on a connection of its own: the long read waits for no other.
        (written, size), (last, number), total = await _all(
            (self._copy if by_the_database else self._format)(found, wish, command, limit),
            self._end(found, command.after, limit),
            self._total(found, command),
        )
        if written != number:
            raise Incomplete(f"{written} rows were written where {number} were counted")
        is_last = not number or command.done + number >= total
        return Part(number, size, total, None if is_last else last, command.done + number, total)

    async def _end(self, found: Rows, after: Key, limit: int) -> tuple[Key, int]:
        async with self.database.reading() as session:
            row = (await session.execute(found.end_of_part(after, limit))).first()
        return (store.plain_key(row[:-1]), row[-1]) if row else ((), 0)

    async def _total(self, found: Rows, command: ExportChunk) -> int:
        if command.total is not None:
            return command.total
        async with self.database.reading() as session:
            return int(await session.scalar(found.count()) or 0)

    async def _copy(self, found: Rows, wish: ReportWish, command: ExportChunk, limit: int) -> tuple[int, int]:
        """From PostgreSQL, which formats it, into the storage: Python sees no row, and holds a few blocks at a time.
        How many rows and bytes."""
        query, options = store.printed(found, wish).part(command.after, limit), wish.options
        mark = BOM if options.bom and command.part == 0 else b""
        how = {"delimiter": options.delimiter, "header": command.part == 0}
        async with self._copying(query, wish.timezone, mark, **how) as copied:
            size = await self.storage.put(domain.part_name(command.report_id, command.part), copied.blocks())
            return await copied.rows(), size

    async def _format(self, found: Rows, wish: ReportWish, command: ExportChunk, limit: int) -> tuple[int, int]:
        """In a process of its own, which the lanes of this one do not wait for. How many rows and bytes."""
        query = found.part(command.after, limit)
        with _scratch() as folder:
            raw, target = folder / "raw", folder / "part"
            if self.database.is_sqlite:
                async with self.database.reading() as session:
                    database, plain = str(self.database.url.database), _plain(query, session)
                work = to_process.run_sync(templates.write_part_of, database, plain, wish, command.done, target)
            else:
                async with self._copying(query, "UTC") as copied:
                    with raw.open("wb") as file:
                        async for some in copied.blocks():
                            file.write(some)
                work = to_process.run_sync(templates.write_part, raw, wish, command.done, target)
            written = await work
            return written, await self.storage.put(domain.part_name(command.report_id, command.part), target)

    @contextlib.asynccontextmanager
    async def _copying(self, query: Any, timezone: str, mark: bytes = b"", **options: Any) -> AsyncIterator[Copied]:
        """PostgreSQL's COPY at work, inside the block; what it says comes after `mark`."""
        async with self.database.reading() as session:
            # ISO, whatever the database was told: the format of a report is ours to say.
            told = text("SELECT set_config('TimeZone', :zone, true), set_config('DateStyle', 'ISO', true)")
            await session.execute(told, {"zone": timezone})
            connection = (await (await session.connection()).get_raw_connection()).driver_connection
            copied = Copied(mark)
            copied.begin(connection, _plain(query, session), options)
            try:
                yield copied
            finally:
                await copied.end()

    # -- days -----------------------------------------------------------------------------------------------------

    async def _write_days(self, wish: ReportWish, report: Report, command: ExportChunk) -> Part:
        with _scratch() as folder:
            raw, target = folder / "raw", folder / "part"
            async with self.database.reading() as session:
                bounds = command.after or await self._bounds(session, wish, report.revision)
                days, after, left = domain.part_days(bounds, wish.timezone)
                raw.touch()
                number = await _save_summary(session, store.summary(wish, report.revision, days), raw) if days else 0
            await to_process.run_sync(templates.write_part, raw, wish, command.done, target)
            size = await self.storage.put(domain.part_name(command.report_id, command.part), target)
        before = command.part * domain.SUMMARY_DAYS
        return Part(number, size, None, after, before + len(days), before + left, "days")

    async def _bounds(self, session: AsyncSession, wish: ReportWish, revision: int) -> Key:
        """The first and the last day of a summary, as its chunks carry them; empty if there are no orders."""
        zone = ZoneInfo(wish.timezone)
        bounds = (await session.execute(store.placed_between(wish, revision))).one()
        if bounds[0] is None:
            return ()
        return tuple(datetime.fromtimestamp(at / 1000, UTC).astimezone(zone).date().isoformat() for at in bounds)


def too_much(settings: ReportsSettings) -> Stopped:
    """What is said where a caller's reports take more than they may."""
    return Stopped(
        "storage_limit", f"Your reports may take {settings.storage_limit_mb} MB in all; delete one, or wait."
    )


async def _save_summary(session: AsyncSession, query: Any, target: Path) -> int:
    """Write a summary's raw rows, some at a time: other lanes run in between. How many there are."""
    number = 0
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        async for some in (await session.stream(query)).partitions(1_000):
            writer.writerows(map(_summed, some))
            number += len(some)
            await asyncio.sleep(0)
    return number


def _summed(row: Any) -> tuple[Any, ...]:
    revenue = Decimal(int(row.revenue)).scaleb(-minor_digits(row.currency))
    share = Decimal(row.rejected_orders) / row.orders
    counts = (row.orders, row.pieces, f"{revenue:f}", row.rejected_orders, f"{share:.4f}")
    return (row.day, row.sku, row.name, row.currency, *counts)


def _plain(query: Any, session: AsyncSession) -> str:
    """A query with its values written out, for what takes no parameters. How they are quoted, a dialect knows only once
    it is connected: whether a backslash stands for itself is a setting of the server."""
    return str(query.compile(dialect=session.get_bind().dialect, compile_kwargs={"literal_binds": True}))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
