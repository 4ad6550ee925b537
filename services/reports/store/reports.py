"""Reports: what was asked for, how far it is, and how long its file is kept."""

import secrets
from collections.abc import Collection, Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, Column, String, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Field, SQLModel

from contracts.reports import (
    AssembleReport,
    CancelReport,
    CreateReport,
    ExportChunk,
    ExportStopped,
    RemoveReportFiles,
    ReportAssembled,
)
from services.reports import domain
from services.reports.store.base import Base
from services.reports.store.choices import load_choices
from services.reports.store.read_model import load_read_model
from shared.persistence import clock
from shared.persistence.clock import moment, now
from shared.persistence.database import load, one_process_at_a_time

EXPIRED_AT_ONCE = 100


class Report(Base, table=True):
    """A report that was asked for. Times are epoch milliseconds.

    `revision` is the revision of the read model that the report shows. `chunk_rows` is stored, so that a changed
    setting does not change an export that has begun. `link_key` signs links; None: no link is valid.
    """

    __tablename__ = "reports"

    id: UUID = Field(primary_key=True)
    job_id: str = Field(max_length=255, index=True)
    owner: str = Field(max_length=255)
    role: str = Field(default="customer", max_length=16)
    email: str | None = Field(default=None, max_length=254)
    wish: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    revision: int = Field(sa_type=BigInteger)
    chunk_rows: int
    status: str = Field(sa_type=String(16))
    filename: str
    reason: str | None = None
    detail: str | None = None
    rows: int | None = Field(default=None, sa_type=BigInteger)
    bytes: int | None = Field(default=None, sa_type=BigInteger)
    sha256: str | None = Field(default=None, max_length=64)
    link_key: str | None = Field(default=None, max_length=64)
    created_at: int = Field(sa_type=BigInteger)
    ended_at: int | None = Field(default=None, sa_type=BigInteger)
    expires_at: int | None = Field(default=None, sa_type=BigInteger)

    @property
    def reference(self) -> dict[str, Any]:
        """The fields by which events, mails and notifications name a report."""
        return {"report_id": self.id, "kind": self.wish["kind"], "format": self.wish["format"]}


# -- what handlers load -----------------------------------------------------------------------------------------------


async def load_requested(session: AsyncSession, commands: Sequence[CreateReport]) -> Iterable[SQLModel]:
    """The read model, the reports that exist already, and the choices of those who ask."""
    model = await load_read_model(session)
    known = await load(session, Report, (command.report_id for command in commands), lock=True)
    choices = await load_choices(session, (domain.reader(c.owner, domain.role_of(c)) for c in commands))
    return [model, *known, *choices]


async def load_exported(session: AsyncSession, commands: Sequence[ExportChunk | AssembleReport]) -> Iterable[SQLModel]:
    """The reports that are being made."""
    return await load(session, Report, (command.report_id for command in commands))


async def load_ending(
    session: AsyncSession, messages: Sequence[ReportAssembled | ExportStopped | CancelReport]
) -> Iterable[SQLModel]:
    """The reports that end, locked, with the other finished reports of their owners and the owners' choices."""
    found = await load(session, Report, (m.report_id for m in messages), lock=True)
    table: Any = Report
    owners = {report.owner for report in found}
    await one_process_at_a_time(session, owners)  # else two reports could take the last free space of one owner
    stored = (await session.scalars(select(Report).where(table.owner.in_(owners), table.status == "READY"))).all()
    return [*stored, *await _with_choices(session, found)]


async def load_of_failed_jobs(session: AsyncSession, job_ids: Collection[str]) -> Iterable[SQLModel]:
    """The reports of jobs that failed, locked, and the choices of their owners."""
    column: Any = Report.job_id
    query = select(Report).where(column.in_(job_ids)).order_by(Report.id).with_for_update()  # type: ignore[arg-type]
    return await _with_choices(session, (await session.scalars(query)).all())


async def _with_choices(session: AsyncSession, found: Sequence[Report]) -> Iterable[SQLModel]:
    return [*found, *await load_choices(session, (domain.reader(report.owner, report.role) for report in found))]


# -- how a report changes ---------------------------------------------------------------------------------------------


def new_report(command: CreateReport, revision: int, chunk_rows: int, job_id: str) -> Report:
    """A report that is to be made, of a revision of the read model."""
    at = now()
    return Report(
        id=command.report_id,
        job_id=job_id,
        owner=command.owner,
        role=domain.role_of(command),
        email=command.email,
        wish=command.wish.model_dump(mode="json"),
        revision=revision,
        chunk_rows=chunk_rows,
        status="RUNNING",
        filename=domain.filename(command.wish, command.report_id, moment(at)),
        created_at=at,
    )


def finish(report: Report, event: ReportAssembled, keep_days: float) -> int:
    """Make a report READY for download for `keep_days`; return when it expires (epoch milliseconds)."""
    report.status, report.ended_at = "READY", now()
    report.rows, report.bytes, report.sha256 = event.rows, event.bytes, event.sha256
    report.link_key, report.expires_at = new_link_key(), report.ended_at + round(keep_days * 86_400_000)
    return report.expires_at


def new_link_key() -> str:
    """A key that signs a report's links."""
    return secrets.token_hex(32)


def expire(report: Report) -> RemoveReportFiles:
    """Expire a report that was READY; return the command that removes its files. The report keeps its link key, so
    that its link is answered with "expired" and not with "invalid"."""
    report.status, report.expires_at = "EXPIRED", min(report.expires_at or now(), now())
    return RemoveReportFiles(report_id=report.id, result=True)


# -- queries ----------------------------------------------------------------------------------------------------------


async def lock_report(session: AsyncSession, report_id: UUID) -> Report | None:
    """One report, locked."""
    return next(iter(await load(session, Report, [report_id], lock=True)), None)


def select_reports(customer: str | None, status: str | None) -> Any:
    """The reports of one customer or of everyone, in one status or in any."""
    query: Any = select(Report)
    if customer is not None:
        query = query.where(Report.owner == customer, Report.role == "customer")
    return query.where(Report.status == status) if status else query


async def lock_overdue(session: AsyncSession) -> Sequence[Report]:
    """Some READY reports whose time is over, locked, without those that another process has locked."""
    table: Any = Report
    query = select(Report).where(table.status == "READY", table.expires_at <= clock.of_database(session))
    query = query.order_by(table.expires_at).limit(EXPIRED_AT_ONCE).with_for_update(skip_locked=True)
    return (await session.scalars(query)).all()


async def stored_bytes(session: AsyncSession, owner: str) -> int:
    """The bytes that the READY reports of an owner take in the storage."""
    table: Any = Report
    taken = select(func.sum(table.bytes)).where(table.owner == owner, table.status == "READY")
    return int(await session.scalar(taken) or 0)
