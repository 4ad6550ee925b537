"""Reports, their files, and what was told of them, over HTTP.

A file is opened by its owner's token or by a link that is signed; either way what is sent is what was checked when it
was made, or nothing.
"""

import re
from collections.abc import AsyncIterator
from email.utils import formatdate
from typing import Annotated, Any, cast

import structlog
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import ServerSentEvent
from pydantic import BaseModel, Field

from contracts.http import LinkView, NoticeChoice, NotificationPage, NotificationView, ReportView
from contracts.reports import MEDIA_TYPES, ReportStatus
from services.reports import domain
from services.reports.adapters.exporter import Exporter
from services.reports.adapters.storage import Missing, NotStored, Storage
from services.reports.domain import Unsatisfiable
from services.reports.settings import ReportsSettings
from services.reports.store import notifications, reports
from services.reports.store.choices import Choice, save_choice
from services.reports.store.notifications import Notification, Seen
from services.reports.store.reports import Report
from shared.http.auth import Caller, CallerOf, CallerOrLink
from shared.http.body import Route
from shared.http.events import EVENTS, Events, change_or_pause
from shared.http.pages import Cursor, CursorOf, Page, paginate
from shared.http.problems import Problem
from shared.http.protocol import IdOf
from shared.persistence.clock import moment, now
from shared.service import Service
from shared.service.http import Running

log = structlog.get_logger(__name__)

_SECONDS = re.compile(r"[1-9][0-9]{0,11}")
FROM_HTML = (
    "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
"""What a page of ours may do where it is shown: nothing but show itself."""


router = APIRouter(prefix="/v1", route_class=Route)


# -- reports ----------------------------------------------------------------------------------------------------------


async def _public_url(service: Running) -> str:
    return str(service.resources.get(ReportsSettings).public_url).rstrip("/")


PublicUrl = Annotated[str, Depends(_public_url)]


class ReportCursor(Cursor):
    """Which reports."""

    status: ReportStatus | None = None


@router.get("/reports", tags=["reports"])
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
        return _theirs(await session.get(Report, report_id), who)


ReportOf = Annotated[Report, Depends(_visible)]


@router.get("/reports/{report_id}", tags=["reports"])
async def show_report(report: ReportOf, public_url: PublicUrl) -> ReportView:
    """One report. It can be a moment after its job was accepted until it is found here."""
    return _view(report, public_url)


@router.delete("/reports/{report_id}", status_code=204, tags=["reports"])
async def remove_report(report_id: IdOf, request: Request, service: Running, who: CallerOf) -> None:
    """Remove a report's file before its time. One that is being made is cancelled instead, by its job."""
    async with service.outbox.request(request.scope["traceparent"]) as unit:
        report = _theirs(await reports.lock_report(unit.session, report_id), who)
        if report.status == "RUNNING":
            raise Problem(409, "report_running", "The report is being made: cancel its job instead.")
        if report.status == "READY":
            unit.send(reports.expire(report))


@router.post("/reports/{report_id}/link", tags=["reports"])
async def renew_link(report_id: IdOf, service: Running, who: CallerOf, public_url: PublicUrl) -> LinkView:
    """A new link to the file that needs no token. Earlier ones, also the one in the mail, stop working."""
    async with service.database.transaction() as session:
        report = _ready(_theirs(await reports.lock_report(session, report_id), who))
        report.link_key = reports.new_link_key()
    link = _link(report, public_url)
    assert link, "it was just given a key"
    return link


@router.delete("/reports/{report_id}/link", status_code=204, tags=["reports"])
async def revoke_link(report_id: IdOf, service: Running, who: CallerOf) -> None:
    """Stop all links to the file."""
    async with service.database.transaction() as session:
        _theirs(await reports.lock_report(session, report_id), who).link_key = None


# -- files ------------------------------------------------------------------------------------------------------------


class Link(BaseModel):
    """What a signed link carries, as text: whatever is wrong with it, the link is."""

    expires: str | None = Field(default=None, description="Until when it is good, in epoch seconds.")
    signature: str | None = Field(default=None, description="With it, no token is needed.")


FILES: dict[str, Any] = {media.partition(";")[0]: {} for media in MEDIA_TYPES.values()}
FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": FILES},
    206: {"description": "The part of it that was asked for.", "content": FILES},
    304: {"description": "You have it already."},
}


@router.get(
    "/reports/{report_id}/download",
    response_class=Response,
    responses=FILE,
    tags=["reports"],
    openapi_extra={"security": [{}]},  # a link is enough
)
async def download_report(
    report_id: IdOf, request: Request, service: Running, who: CallerOrLink, link: Annotated[Link, Query()]
) -> Response:
    """A report's file, by your token or by a signed link. Takes `Range`, `If-Range` and `If-None-Match`."""
    async with service.database.reading() as session:
        row = await session.get(Report, report_id)
    if who is None or link.signature is not None:
        return await _file(_ready(_linked(row, link)), request)
    return await _file(_ready(_theirs(row, who)), request)


async def _file(report: Report, request: Request) -> Response:
    """The file, or the range of it that was asked for (RFC 9110, 13 and 14)."""
    size, etag = report.bytes or 0, f'"{report.sha256}"'
    modified = formatdate((report.ended_at or 0) / 1000, usegmt=True)
    headers = {
        "ETag": etag,
        "Last-Modified": modified,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-store",
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": f'attachment; filename="{report.filename}"',
    }
    if report.wish["format"] == "html":
        headers["Content-Security-Policy"] = FROM_HTML
    if _is_known(",".join(request.headers.getlist("if-none-match")), etag):
        return Response(status_code=304, headers=headers)
    await _demand_stored(report, _storage(request))
    try:
        wanted = None
        if request.headers.get("if-range", etag) in (etag, modified):
            wanted = domain.byte_range(request.headers.get("range"), size)
    except Unsatisfiable as error:
        at_most = {"Content-Range": f"bytes */{size}"}
        raise Problem(416, "range_not_satisfiable", f"There is no such range: {error}.", headers=at_most) from error
    first, last = wanted or (0, size - 1)
    headers["Content-Length"] = str(last - first + 1)
    if wanted:
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    status, media = (206 if wanted else 200), MEDIA_TYPES[report.wish["format"]]
    chunks = _storage(request).read(domain.result_name(report.id), first, last)
    return StreamingResponse(chunks, status, headers, media)


def _storage(request: Request) -> Storage:
    service: Service = request.app.state.service
    return service.resources.get(Exporter).storage


async def _demand_stored(report: Report, storage: Storage) -> None:
    """Nothing is sent before it is known that all can be. Raises `Problem` 503.

    A file that is missing is not said to be gone: it should be there, and somebody may put it back.
    """
    try:
        size = await storage.size(domain.result_name(report.id))
    except Missing:
        size = None
    except NotStored as error:
        log.warning("a report's file cannot be read", report_id=str(report.id), why=str(error))
        raise Problem(503, "storage_unavailable", "The file cannot be read now; try again.") from error
    if size != report.bytes:
        log.error("a report's file is not as it was made", report_id=str(report.id), bytes=size, made=report.bytes)
        raise Problem(503, "file_missing", "The file is not in its place, and it has been logged; try again later.")


# -- notifications ----------------------------------------------------------------------------------------------------


@router.get("/notifications", tags=["notifications"])
async def list_notifications(service: Running, who: CallerOf, cursor: CursorOf) -> NotificationPage:
    """What you were told, newest first, and how much of it is unread."""
    async with service.database.reading() as session:
        rows, has_more = await paginate(
            session, notifications.select_notifications(_reader(who)), Notification.id, cursor
        )
        unread = await notifications.count_unread(session, _reader(who))
    return NotificationPage(data=tuple(map(_notice, rows)), has_more=has_more, unread=unread)


@router.post("/notifications/read", status_code=204, tags=["notifications"])
async def read_all_notifications(service: Running, who: CallerOf) -> None:
    """Mark all as read."""
    async with service.database.transaction() as session:
        await notifications.mark_all_read(session, _reader(who))


@router.post("/notifications/{notification_id}/read", tags=["notifications"])
async def read_notification(notification_id: IdOf, service: Running, who: CallerOf) -> NotificationView:
    """Mark one as read."""
    async with service.database.transaction() as session:
        row = await session.get(Notification, notification_id)
        if row is None or row.reader != _reader(who):
            raise Problem(404, "notification_not_found", f"There is no notification {notification_id}.")
        row.read_at = row.read_at or now()
    return _notice(row)


async def _seen(service: Running, who: CallerOf, last_event_id: Annotated[str | None, Header()] = None) -> Seen:
    """Known before the stream begins, so that whoever has its headers misses nothing."""
    async with service.database.reading() as session:
        return await notifications.seen_by(session, _reader(who), last_event_id)


@router.get("/notifications/events", response_class=Response, responses=EVENTS, tags=["notifications"])
async def follow_notifications(service: Running, who: CallerOf, seen: Annotated[Seen, Depends(_seen)]) -> Response:
    """What you are told from now on: `notification` for each. `Last-Event-ID` goes on after one."""
    return Events(_events(service, who, seen), who.expires_at)


async def _events(service: Service, who: Caller, seen: Seen) -> AsyncIterator[ServerSentEvent | None]:
    with notifications.news.of(_reader(who)) as changed:
        while True:
            changed.clear()
            async with service.database.reading() as session:
                news, seen = await notifications.unseen(session, _reader(who), seen)
            for row in news:
                yield ServerSentEvent(event="notification", data=_notice(row), id=str(row.id))
            while not news and not await change_or_pause(changed):
                yield None


@router.get("/me/notifications", tags=["notifications"])
async def show_choice(service: Running, who: CallerOf) -> NoticeChoice:
    """How you want to be told."""
    async with service.database.reading() as session:
        row = await session.get(Choice, _reader(who))
    if row is None:
        return NoticeChoice(mail=bool(who.email))
    return NoticeChoice.model_validate(row.model_dump(exclude={"reader"}))


@router.put("/me/notifications", tags=["notifications"])
async def choose(choice: NoticeChoice, service: Running, who: CallerOf) -> NoticeChoice:
    """Choose how you want to be told when a report ends: by mail, in the application, or both."""
    if choice.mail and not (choice.email or who.email):
        raise Problem(422, "no_address", "Mail needs an address: give `email`, or a token with one.")
    async with service.database.transaction() as session:
        await save_choice(session, _reader(who), choice)
    return choice


# -- below the routes -------------------------------------------------------------------------------------------------


def _reader(who: Caller) -> str:
    return domain.reader(who.subject, who.role)


def _theirs(report: Report | None, who: Caller) -> Report:
    if report is None or not who.may_see(report.owner, report.role):
        raise Problem(404, "report_not_found", "There is no such report.")
    return report


def _linked(report: Report | None, link: Link) -> Report:
    """The report that a signed link opens. One link is as wrong as another: nothing is said of what exists."""
    expires = int(link.expires) if link.expires and _SECONDS.fullmatch(link.expires) else 0
    signature = link.signature if link.signature and link.signature.isascii() else ""
    if report is None or not expires or not domain.is_signed(report.link_key, report.id, expires, signature):
        raise Problem(403, "link_invalid", "The link is not valid: it was changed, or revoked.")
    if expires * 1000 <= now():
        raise Problem(410, "link_expired", "The link has expired.")
    return report


def _ready(report: Report) -> Report:
    if report.status == "EXPIRED" or (report.status == "READY" and (report.expires_at or 0) <= now()):
        raise Problem(410, "report_expired", "The report was kept for its time and is gone; ask for it again.")
    if report.status != "READY":
        what = f" ({report.detail})" if report.detail else ""
        raise Problem(409, f"report_{report.status.lower()}", f"There is no file: the report is {report.status}{what}.")
    return report


def _is_known(header: str, etag: str) -> bool:
    """Whether `If-None-Match` names what we have (RFC 9110, 13.1.2: weakly compared)."""
    given = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return etag in given or given == ["*"]


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


def _notice(row: Notification) -> NotificationView:
    times = {"created_at": moment(row.created_at), "read_at": moment(row.read_at) if row.read_at else None}
    return NotificationView(id=row.id, **row.content, **times)
