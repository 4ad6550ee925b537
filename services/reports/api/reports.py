"""Reports and their links."""

from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Query, Request

from contracts.http.reports import LinkView, ReportView
from contracts.reports import ReportStatus
from services.reports import domain
from services.reports.settings import ReportsSettings
from services.reports.store import reports
from services.reports.store.reports import Report
from shared.http.auth import Caller, CallerOf
from shared.http.body import Route
from shared.http.pages import Cursor, Page, paginate
from shared.http.problems import Problem
from shared.http.protocol import IdOf
from shared.persistence.clock import moment, now
from shared.service.http import Running

router = APIRouter(prefix="/reports", tags=["reports"], route_class=Route)


async def _public_url(service: Running) -> str:
    return str(service.resources.get(ReportsSettings).public_url).rstrip("/")


PublicUrl = Annotated[str, Depends(_public_url)]


class ReportCursor(Cursor):
    """Which reports."""

    status: ReportStatus | None = None


@router.get("")
async def list_reports(
    service: Running, who: CallerOf, public_url: PublicUrl, cursor: Annotated[ReportCursor, Query()]
) -> Page[ReportView]:
    """Your reports, newest first; an operator sees everyone's."""
    async with service.database.reading() as session:
        query = reports.select_reports(None if who.is_operator else who.subject, cursor.status)
        rows, has_more = await paginate(session, query, Report.id, cursor)
    return Page(data=[_view(row, public_url) for row in rows], has_more=has_more)


async def _visible(report_id: IdOf, service: Running, who: CallerOf) -> Report:
    async with service.database.reading() as session:
        return owned(await session.get(Report, report_id), who)


ReportOf = Annotated[Report, Depends(_visible)]


@router.get("/{report_id}")
async def show_report(report: ReportOf, public_url: PublicUrl) -> ReportView:
    """One report. It can be a moment after its job was accepted until it is found here."""
    return _view(report, public_url)


@router.delete("/{report_id}", status_code=204)
async def remove_report(report_id: IdOf, request: Request, service: Running, who: CallerOf) -> None:
    """Remove a report's file before its time. One that is being made is cancelled instead, by its job."""
    async with service.outbox.request(request.scope["traceparent"]) as unit:
        report = owned(await reports.lock_report(unit.session, report_id), who)
        if report.status == "RUNNING":
            raise Problem(409, "report_running", "The report is being made: cancel its job instead.")
        if report.status == "READY":
            unit.send(reports.expire(report))


@router.post("/{report_id}/link")
async def renew_link(report_id: IdOf, service: Running, who: CallerOf, public_url: PublicUrl) -> LinkView:
    """A new link to the file that needs no token. Earlier ones, also the one in the mail, stop working."""
    async with service.database.transaction() as session:
        report = ready(owned(await reports.lock_report(session, report_id), who))
        report.link_key = reports.new_link_key()
    link = _link(report, public_url)
    assert link, "it was just given a key"
    return link


@router.delete("/{report_id}/link", status_code=204)
async def revoke_link(report_id: IdOf, service: Running, who: CallerOf) -> None:
    """Stop all links to the file."""
    async with service.database.transaction() as session:
        owned(await reports.lock_report(session, report_id), who).link_key = None


def owned(report: Report | None, who: Caller) -> Report:
    """A report that the caller may see. Raises `Problem` 404."""
    if report is None or not who.may_see(report.owner, report.role):
        raise Problem(404, "report_not_found", "There is no such report.")
    return report


def ready(report: Report) -> Report:
    """A report that has a file. Raises `Problem` 409 or 410."""
    if report.status == "EXPIRED" or (report.status == "READY" and (report.expires_at or 0) <= now()):
        raise Problem(410, "report_expired", "The report was kept for its time and is gone; ask for it again.")
    if report.status != "READY":
        what = f" ({report.detail})" if report.detail else ""
        raise Problem(409, f"report_{report.status.lower()}", f"There is no file: the report is {report.status}{what}.")
    return report


def _link(report: Report, public_url: str) -> LinkView | None:
    url = domain.link(public_url, report)
    return LinkView(url=url, expires_at=moment((report.expires_at or 0) // 1000 * 1000)) if url else None


def _view(report: Report, public_url: str) -> ReportView:
    is_ready = report.status == "READY"
    return ReportView(
        id=report.id,
        kind=report.wish["kind"],
        format=report.wish["format"],
        status=cast(ReportStatus, report.status),
        wish=cast(Any, report.wish),
        owner=report.owner,
        job_id=report.job_id,
        filename=report.filename,
        rows=report.rows,
        bytes=report.bytes,
        sha256=report.sha256,
        download_url=f"{public_url}/v1/reports/{report.id}/download" if is_ready else None,
        link=_link(report, public_url) if is_ready else None,
        reason=report.reason,
        detail=report.detail,
        created_at=moment(report.created_at),
        ended_at=moment(report.ended_at) if report.ended_at else None,
        expires_at=moment(report.expires_at) if report.expires_at else None,
    )
