"""Jobs: looked at, waited for, followed, cancelled."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.sse import ServerSentEvent
from pydantic import BaseModel, Field

from contracts.base import Command, JobState
from contracts.http.jobs import JobView
from services.gateway import domain
from services.gateway.domain import Seen, kind_named
from services.gateway.jobs import views
from services.gateway.jobs.starting import STARTED, JobStart
from services.gateway.proxy import OneStream
from services.gateway.store import jobs
from services.gateway.store.jobs import Job
from shared.http.auth import Caller, CallerOf
from shared.http.body import Route
from shared.http.events import EVENTS, Events, change_or_pause
from shared.http.pages import CursorOf, Page, paginate
from shared.http.problems import Problem
from shared.http.protocol import IdOf
from shared.service import Service
from shared.service.http import Running

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=Route)


async def _visible(job_id: IdOf, service: Running, who: CallerOf) -> Job:
    async with service.database.reading() as session:
        found = await jobs.job(session, job_id)
    if found is None or not who.may_see(found.owner, found.role):
        raise Problem(404, "job_not_found", f"There is no job {job_id}.")
    return found


JobOf = Annotated[Job, Depends(_visible)]


@router.get("")
async def list_jobs(
    service: Running, who: CallerOf, cursor: CursorOf, status: Annotated[JobState | None, Query()] = None
) -> Page[JobView]:
    """Your jobs, newest first; an operator sees everyone's."""
    async with service.database.reading() as session:
        query = jobs.owned(None if who.is_operator else who.subject, status)
        rows, has_more = await paginate(session, query, Job.id, cursor)
    return Page(data=[views.view(row) for row in rows], has_more=has_more)


@router.get("/{job_id}")
async def show_job(job: JobOf) -> JobView:
    """One job."""
    return views.view(job)


class WaitQuery(BaseModel):
    """How long to wait."""

    timeout: float = Field(
        default=domain.LONGEST_WAIT, ge=0, le=domain.LONGEST_WAIT, allow_inf_nan=False, description="Seconds."
    )


@router.post(
    "/{job_id}/wait",
    responses={202: {"model": JobView, "description": "It has not ended yet: ask again."}},
)
async def wait_for_job(
    job: JobOf, service: Running, response: Response, query: Annotated[WaitQuery, Query()]
) -> JobView:
    """One job, as soon as it has ended; after `timeout` as it is then."""
    found = await jobs.ended(service.database, job.id, query.timeout, service.stopping) or job
    if not JobState(found.status).is_final:
        response.status_code = 202
        response.headers.update(views.SOON)
    return views.view(found)


HISTORY = {**EVENTS, 204: {"description": "The job has ended, and you have all of it: do not come again."}}


@router.get("/{job_id}/events", response_class=Response, responses=HISTORY, dependencies=[OneStream])
async def follow_job(
    job: JobOf, request: Request, service: Running, who: CallerOf, last_event_id: Annotated[str | None, Header()] = None
) -> Response:
    """A job as it goes on: `timeline` for each message that moved it, then `state` with the whole job; `progress` where
    it only got further. The stream ends when the job has; `Last-Event-ID` goes on after an event."""
    seen = Seen.read(last_event_id)
    if JobState(job.status).is_final and seen == _all_of(job):
        return Response(status_code=204)  # a browser comes again whenever a stream ends, but not after this
    may_go_on = partial(request.app.state.revoked.is_good, who)
    return Events(_events(service, job, seen), who.expires_at, may_go_on)


async def _events(service: Service, job: Job, seen: Seen) -> AsyncIterator[ServerSentEvent | None]:
    with jobs.changes.of(job.id) as changed:
        while True:
            async with service.database.reading() as session:
                found = await jobs.job(session, job.id) or job
            is_final = JobState(found.status).is_final
            if seen.revision > found.revision:
                seen = Seen.read(None)  # an id that this job never gave
            if found.revision > seen.revision or is_final:
                for happened in _news(found, seen):
                    yield happened
                seen = _all_of(found)
            if is_final:
                return
            while not await change_or_pause(changed):
                yield None
            changed.clear()


def _news(job: Job, seen: Seen) -> list[ServerSentEvent]:
    view = views.view(job)
    news = [
        ServerSentEvent(event="timeline", data=line, id=str(Seen(seen.revision, number)))
        for number, line in enumerate(view.timeline[seen.lines :], seen.lines + 1)
    ]
    only_progress = seen.revision and not news and view.progress and not view.status.is_final
    last = ("progress", view.progress) if only_progress else ("state", view)
    return [*news, ServerSentEvent(event=last[0], data=last[1], id=str(_all_of(job)))]


def _all_of(job: Job) -> Seen:
    return Seen(job.revision, len(job.timeline))


@router.post("/{job_id}/cancel", status_code=202, responses=STARTED)
async def cancel_job(job: JobOf, who: CallerOf, cancellation: JobStart) -> Response:
    """Cancel what a job is about, if it has not ended: by a job of its own."""
    command = kind_named(job.kind).cancelled_by
    if command is None:
        raise Problem(409, "not_cancellable", f"A job of kind {job.kind} cannot be cancelled.")
    return await cancellation.start(command, _cancellation(command, job, who), job.resource_id)


async def _cancellation(command: type[Command], job: Job, who: Caller) -> Command:
    if JobState(job.status).is_final:
        raise Problem(409, "not_cancellable", f"The job has ended: {job.status}.")
    return domain.cancellation(command, job.resource_id or job.id, who.subject)
