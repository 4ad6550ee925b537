"""The files of reports. A file is opened by its owner's token or by a signed link. What is sent has the length that was
checked when the file was made, or nothing is sent."""

import re
from email.utils import formatdate
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from contracts.reports import MEDIA_TYPES
from services.reports import domain
from services.reports.adapters.exporter import Exporter
from services.reports.adapters.storage import Missing, NotStored, Storage
from services.reports.api.reports import owned, ready
from services.reports.domain import Unsatisfiable
from services.reports.store.reports import Report
from shared.http.auth import CallerOrLink
from shared.http.body import Route
from shared.http.problems import Problem
from shared.http.protocol import IdOf
from shared.persistence.clock import now
from shared.service import Service
from shared.service.http import Running

log = structlog.get_logger(__name__)
router = APIRouter(prefix="/reports", tags=["reports"], route_class=Route)

_SECONDS = re.compile(r"[1-9][0-9]{0,11}")
FROM_HTML = (
    "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
"""The content security policy of an html report: it may show itself and nothing else."""


class Link(BaseModel):
    """The query of a signed link, as text: any fault of it makes the link invalid."""

    expires: str | None = Field(default=None, description="Until when it is good, in epoch seconds.")
    signature: str | None = Field(default=None, description="With it, no token is needed.")


FILES: dict[str, Any] = {media.partition(";")[0]: {} for media in MEDIA_TYPES.values()}
FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": FILES},
    206: {"description": "The part of it that was asked for.", "content": FILES},
    304: {"description": "You have it already."},
}


@router.get(
    "/{report_id}/download",
    response_class=Response,
    responses=FILE,
    openapi_extra={"security": [{}]},  # a link is enough
)
async def download_report(
    report_id: IdOf, request: Request, service: Running, who: CallerOrLink, link: Annotated[Link, Query()]
) -> Response:
    """A report's file, by your token or by a signed link. Takes `Range`, `If-Range` and `If-None-Match`."""
    async with service.database.reading() as session:
        row = await session.get(Report, report_id)
    if who is None or link.signature is not None:
        return await _file(ready(_linked(row, link)), request)
    return await _file(ready(owned(row, who)), request)


def _linked(report: Report | None, link: Link) -> Report:
    """The report that a signed link opens. Raises the same `Problem` 403 for every invalid link, so that no answer
    shows which reports exist, and 410 for an expired one."""
    expires = int(link.expires) if link.expires and _SECONDS.fullmatch(link.expires) else 0
    signature = link.signature if link.signature and link.signature.isascii() else ""
    if report is None or not expires or not domain.is_signed(report.link_key, report.id, expires, signature):
        raise Problem(403, "link_invalid", "The link is not valid: it was changed, or revoked.")
    if expires * 1000 <= now():
        raise Problem(410, "link_expired", "The link has expired.")
    return report


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


def _is_known(header: str, etag: str) -> bool:
    """Whether `If-None-Match` names this file (RFC 9110, 13.1.2: weakly compared)."""
    given = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return etag in given or given == ["*"]


def _storage(request: Request) -> Storage:
    service: Service = request.app.state.service
    return service.resources.get(Exporter).storage


async def _demand_stored(report: Report, storage: Storage) -> None:
    """Check that the file is complete, before anything of it is sent. Raises `Problem` 503.

    A missing file is not answered as gone: it should be there, and an operator may restore it.
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
