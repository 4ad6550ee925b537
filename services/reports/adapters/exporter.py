"""Writes the parts of reports, and joins them to files."""

import asyncio
import codecs
import hashlib
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any
from uuid import UUID

from anyio import to_process
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.reports import AssembleReport, ExportChunk, ReportWish
from services.reports import domain, templates
from services.reports.adapters.copying import copying, literal_sql
from services.reports.adapters.failures import Incomplete, Stopped, for_customers, storage_limit_reached
from services.reports.adapters.owners import Owners
from services.reports.adapters.scratch import remove_abandoned, scratch
from services.reports.adapters.storage import Storage
from services.reports.adapters.summary import first_and_last_day, save_summary
from services.reports.domain import Part
from services.reports.settings import ReportsSettings
from services.reports.store.read_model import load_read_model
from services.reports.store.reports import Report, stored_bytes
from services.reports.store.rows import Key, Rows, as_csv, plain_key, select_rows, select_summary
from shared.persistence.database import Database

BOM = codecs.BOM_UTF8


class Exporter:
    """Writes the parts of reports, and joins them."""

    def __init__(self, settings: ReportsSettings, database: Database) -> None:
        self.settings, self.database, self.storage = settings, database, Storage(settings.storage)
        self.owners = Owners(settings)
        remove_abandoned()

    async def write_part(self, report: Report, command: ExportChunk) -> Part:
        """Write one part. A second call writes the same part again. Raises `Stopped` at a limit, `NotStored` and
        `Incomplete`."""
        request = ReportWish.model_validate(report.wish)
        write = self._write_days if request.kind == "sales-summary" else self._write_rows
        with for_customers("making a part of the report"):
            part = await write(request, report, command)
            async with self.database.reading() as session:
                await self._check(session, report, command, part)
        return part

    async def _check(self, session: AsyncSession, report: Report, command: ExportChunk, part: Part) -> None:
        # After reading: the tables may have been empty while they were read.
        if (await load_read_model(session)).emptied_at > report.revision:
            raise Stopped("read_model_rebuilt", "What it shows was rebuilt meanwhile; ask for it again.")
        if (part.total or command.done + part.rows) > self.settings.row_limit:
            raise Stopped("too_many_rows", f"A report has at most {self.settings.row_limit} rows; narrow it down.")
        stored = await stored_bytes(session, report.owner)
        if stored + command.bytes + part.bytes > self.settings.storage_limit_mb * 1_000_000:
            raise storage_limit_reached(self.settings)

    # -- parts of rows --------------------------------------------------------------------------------------------

    async def _write_rows(self, request: ReportWish, report: Report, command: ExportChunk) -> Part:
        found = select_rows(request, report.revision)
        limit = domain.part_rows(request, report.chunk_rows)
        is_formatted_by_database = request.format == "csv" and not self.database.is_sqlite
        # Each on its own connection, so that the queries run at the same time.
        (written, size), (last, number), total = await _all(
            (self._copy if is_formatted_by_database else self._format)(found, request, command, limit),
            self._last_of_part(found, command.after, limit),
            self._total(found, command),
        )
        if written != number:
            raise Incomplete(f"{written} rows were written where {number} were counted")
        is_last = not number or command.done + number >= total
        return Part(number, size, total, None if is_last else last, command.done + number, total)

    async def _last_of_part(self, found: Rows, after: Key, limit: int) -> tuple[Key, int]:
        """The key of a part's last row, and the number of its rows."""
        async with self.database.reading() as session:
            row = (await session.execute(found.end_of_part(after, limit))).first()
        return (plain_key(row[:-1]), row[-1]) if row else ((), 0)

    async def _total(self, found: Rows, command: ExportChunk) -> int:
        if command.total is not None:
            return command.total
        async with self.database.reading() as session:
            return int(await session.scalar(found.count()) or 0)

    async def _copy(self, found: Rows, request: ReportWish, command: ExportChunk, limit: int) -> tuple[int, int]:
        """Let PostgreSQL format a part, and stream it into the storage: memory holds a few blocks at a time. Return the
        number of rows and of bytes."""
        query, options = as_csv(found, request).part(command.after, limit), request.options
        mark = BOM if options.bom and command.part == 0 else b""
        csv_options = {"delimiter": options.delimiter, "header": command.part == 0}
        async with copying(self.database, query, request.timezone, mark, **csv_options) as copied:
            size = await self.storage.put(domain.part_name(command.report_id, command.part), copied.blocks())
            return await copied.rows(), size

    async def _format(self, found: Rows, request: ReportWish, command: ExportChunk, limit: int) -> tuple[int, int]:
        """Format a part in a process of its own, so that the lanes of this process go on. Return the number of rows
        and of bytes."""
        query = found.part(command.after, limit)
        with scratch() as folder:
            raw, target = folder / "raw", folder / "part"
            if self.database.is_sqlite:
                async with self.database.reading() as session:
                    database, sql = str(self.database.url.database), literal_sql(query, session)
                work = to_process.run_sync(templates.write_part_of, database, sql, request, command.done, target)
            else:
                async with copying(self.database, query, "UTC") as copied:
                    with raw.open("wb") as file:
                        async for block in copied.blocks():
                            file.write(block)
                work = to_process.run_sync(templates.write_part, raw, request, command.done, target)
            written = await work
            return written, await self.storage.put(domain.part_name(command.report_id, command.part), target)

    # -- parts of days --------------------------------------------------------------------------------------------

    async def _write_days(self, request: ReportWish, report: Report, command: ExportChunk) -> Part:
        with scratch() as folder:
            raw, target = folder / "raw", folder / "part"
            async with self.database.reading() as session:
                bounds = command.after or await first_and_last_day(session, request, report.revision)
                days, after, left = domain.part_days(bounds, request.timezone)
                raw.touch()
                number = 0
                if days:
                    number = await save_summary(session, select_summary(request, report.revision, days), raw)
            await to_process.run_sync(templates.write_part, raw, request, command.done, target)
            size = await self.storage.put(domain.part_name(command.report_id, command.part), target)
        before = command.part * domain.SUMMARY_DAYS
        return Part(number, size, None, after, before + len(days), before + left, "days")

    # -- files ----------------------------------------------------------------------------------------------------

    async def assemble(self, report: Report, command: AssembleReport) -> tuple[int, str]:
        """Join the parts; return the size of the file in bytes and its SHA-256. Raises `NotStored`, `Incomplete`, and
        `Stopped` for a PDF that this machine cannot write."""
        if command.total not in (None, command.rows):
            raise Incomplete(f"{command.rows} rows were written where {command.total} were counted")
        request, name = ReportWish.model_validate(report.wish), domain.result_name(report.id)
        names = [domain.part_name(report.id, part) for part in range(command.parts)]
        with for_customers("putting the report together"):
            if request.format not in templates.CONCATENATED:
                return await self._assemble(names, request, name)
            digest = hashlib.sha256()
            size = await self.storage.put(name, self._hashed(names, digest))
        if size != command.bytes:
            raise Incomplete(f"the file has {size} bytes where its parts had {command.bytes}")
        return size, digest.hexdigest()

    async def _assemble(self, names: list[str], request: ReportWish, name: str) -> tuple[int, str]:
        with scratch() as folder:
            target = folder / "result"
            for number, part in enumerate(names):
                await self.storage.save(part, folder / f"{number:06}")
            try:
                await to_process.run_sync(templates.assemble_files, folder, len(names), request, target)
            except templates.PangoMissing as error:
                raise Stopped("cannot_write_pdf", str(error)) from error
            sha256 = await asyncio.to_thread(_sha256, target)
            return await self.storage.put(name, target), sha256

    async def _hashed(self, names: list[str], digest: Any) -> AsyncIterator[bytes]:
        for name in names:
            async for block in self.storage.stream(name):
                await asyncio.to_thread(digest.update, block)
                yield block

    async def remove(self, report_id: UUID, *, result: bool) -> None:
        """Remove the parts of a report; with `result`, the finished file too."""
        if result:
            await self.storage.remove(domain.folder(report_id))
        else:
            await self.storage.remove(domain.parts(report_id))
            await self.storage.remove_unfinished(domain.result_name(report_id))


async def _all(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    """The results of coroutines that run at the same time. If one fails, the others still run to their end: a part must
    not be stored after its failure was reported."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
