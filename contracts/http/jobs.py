"""Jobs over HTTP."""

from typing import Any

from pydantic import Field

from contracts.base import UUID, AwareDatetime, Contract, JobState
from contracts.http.common import AT, JOB_ID, ORDER_ID


class Progress(Contract):
    """How far a job is; `total` is None while it is not known."""

    done: int = Field(ge=0)
    total: int | None = Field(default=None, ge=0)
    unit: str = Field(examples=["rows"])
    rate: float | None = Field(default=None, description="Units a second, so far.")
    seconds_left: float | None = Field(default=None, description="At that rate; None while it is not known.")


class TimelineEntry(Contract):
    """One message that moved the job: when it was said, its name, and by which service."""

    at: AwareDatetime = Field(examples=[AT])
    message: str = Field(examples=["order.confirmed.v1"])
    service: str = Field(examples=["orders"])


class JobLinks(Contract):
    """Where to look next."""

    job: str = Field(examples=[f"/v1/jobs/{JOB_ID}"])
    order: str | None = Field(default=None, examples=[f"/v1/orders/{ORDER_ID}"])
    report: str | None = None
    events: str = Field(examples=[f"/v1/jobs/{JOB_ID}/events"])


class JobView(Contract):
    """A job as it stands. `result` is what the message said that ended it well, `error` what ended it badly."""

    id: UUID = Field(examples=[JOB_ID])
    kind: str = Field(examples=["order.place"])
    status: JobState
    order_id: UUID | None = Field(default=None, examples=[ORDER_ID])
    report_id: UUID | None = None
    progress: Progress | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = Field(
        default=None, description="`code` and `detail`, and what else the message said.", examples=[None]
    )
    timeline: tuple[TimelineEntry, ...]
    created_at: AwareDatetime = Field(examples=[AT])
    updated_at: AwareDatetime = Field(examples=[AT])
    ended_at: AwareDatetime | None = None
    links: JobLinks


class JobAccepted(Contract):
    """A job was written down and will be worked on, whatever crashes meanwhile."""

    job_id: UUID = Field(examples=[JOB_ID])
    order_id: UUID | None = Field(default=None, examples=[ORDER_ID])
    report_id: UUID | None = None
    status: JobState
    links: JobLinks


class JobFinished(JobAccepted):
    """The same for a job that ended while its client waited (`Prefer: wait=N`), with how it ended."""

    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
