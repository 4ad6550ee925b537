"""Jobs as they are answered."""

from typing import Any
from uuid import UUID

from fastapi import Response

from contracts.base import Contract, JobState
from contracts.http.jobs import JobAccepted, JobFinished, JobView
from services.gateway.domain import kind_named
from services.gateway.store.jobs import Job
from services.gateway.store.keys import Receipt
from shared.persistence.clock import moment

SOON = {"Retry-After": "1"}


def accepted(receipt: Receipt, kind: str, status: JobState, headers: dict[str, str]) -> Response:
    """The answer to a request that became a job of that kind."""
    about = _about(receipt.job_id, kind, receipt.resource_id)
    body = JobAccepted(job_id=receipt.job_id, status=status, **about)
    return _json(body, 202, headers | SOON | {"Location": body.links.job})


def finished(job: Job, headers: dict[str, str]) -> Response:
    """The answer to a request whose job has ended meanwhile: at the resource, if the job has made one."""
    about = _about(job.id, job.kind, job.resource_id)
    body = JobFinished(job_id=job.id, status=JobState(job.status), result=job.result, error=job.error, **about)
    kind = kind_named(job.kind)
    if kind.is_creation and kind.resource and body.status is JobState.SUCCESS:
        return _json(body, 201, headers | {"Location": getattr(body.links, kind.resource)})
    return _json(body, 200, headers | {"Content-Location": body.links.job})


def _json(body: Contract, status: int, headers: dict[str, str]) -> Response:
    return Response(body.model_dump_json(), status, headers, "application/json")


def view(job: Job) -> JobView:
    """A job as it stands."""
    row = job.model_dump(exclude={"owner", "role", "resource_id", "revision"})
    times = {name: moment(row[name]) for name in ("created_at", "updated_at", "ended_at") if row[name] is not None}
    return JobView(**(row | times), **_about(job.id, job.kind, job.resource_id))


def _about(job_id: UUID, kind: str, resource_id: UUID | None) -> dict[str, Any]:
    """The fields of every answer: what the job is about, and where to look next."""
    job, resource = f"/v1/jobs/{job_id}", kind_named(kind).resource
    links: dict[str, Any] = {"job": job, "events": f"{job}/events"}
    if not (resource and resource_id):
        return {"links": links}
    return {f"{resource}_id": resource_id, "links": links | {resource: f"/v1/{resource}s/{resource_id}"}}
