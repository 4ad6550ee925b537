"""Jobs as they are answered."""

from typing import Any, cast
from uuid import UUID

from fastapi import Response

from contracts.base import Contract, JobState
from contracts.http import JobAccepted, JobFinished, JobLinks, JobView
from services.gateway import domain
from services.gateway.store.jobs import Job
from services.gateway.store.keys import Receipt
from shared.persistence.clock import moment

SOON = {"Retry-After": "1"}


def accepted(receipt: Receipt, kind: str, status: JobState, headers: dict[str, str]) -> Response:
    """What is answered to a wish that became a job of that kind."""
    about = _about(kind, receipt.resource_id)
    links = _links(receipt.job_id, **about)
    body = JobAccepted(job_id=receipt.job_id, **about, status=status, links=links)
    return _json(body, 202, headers | SOON | {"Location": links.job})


def finished(job: Job, headers: dict[str, str]) -> Response:
    """What is answered to a wish whose job has ended meanwhile: at the resource, if the job has made one."""
    about = _about(job.kind, job.resource_id)
    links = _links(job.id, **about)
    body = JobFinished(
        job_id=job.id,
        **about,
        status=JobState(job.status),
        links=links,
        result=job.result,
        error=job.error,
    )
    made = getattr(links, domain.resource(job.kind) or "", None)
    if domain.is_creation(job.kind) and made and body.status is JobState.SUCCESS:
        return _json(body, 201, headers | {"Location": made})
    return _json(body, 200, headers | {"Content-Location": links.job})


def _json(body: Contract, status: int, headers: dict[str, str]) -> Response:
    return Response(body.model_dump_json(), status, headers, "application/json")


def view(job: Job) -> JobView:
    """A job as it stands."""
    about = _about(job.kind, job.resource_id)
    return JobView(
        id=job.id,
        kind=job.kind,
        status=JobState(job.status),
        **about,
        progress=cast(Any, job.progress),
        result=job.result,
        error=job.error,
        timeline=cast(Any, job.timeline),
        created_at=moment(job.created_at),
        updated_at=moment(job.updated_at),
        ended_at=moment(job.ended_at) if job.ended_at else None,
        links=_links(job.id, **about),
    )


def _about(kind: str, resource_id: UUID | None) -> dict[str, UUID | None]:
    resource = domain.resource(kind)
    return {name: resource_id if name == f"{resource}_id" else None for name in ("order_id", "report_id")}


def _links(job_id: UUID, order_id: UUID | None, report_id: UUID | None) -> JobLinks:
    job = f"/v1/jobs/{job_id}"
    return JobLinks(
        job=job,
        order=f"/v1/orders/{order_id}" if order_id else None,
        report=f"/v1/reports/{report_id}" if report_id else None,
        events=f"{job}/events",
    )
