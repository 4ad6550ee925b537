"""Events about jobs and dead letters that the kernel sends from any service: exchange `jobs`."""

from typing import Annotated, ClassVar

from pydantic import Field

from contracts.base import UUID, Event, JobState, text


class JobRetrying(Event):
    """A message of a job failed and will be tried again. Transient: the latest one is enough."""

    exchange: ClassVar[str] = "jobs"
    key: ClassVar[str] = "job.retrying.v1"
    job: ClassVar[JobState | None] = JobState.RETRY
    transient: ClassVar[bool] = True

    attempt: int = Field(ge=1, description="The attempt that failed, counted from 1.")
    retry_in: float = Field(gt=0, description="Seconds until the next one.")


class JobFailed(Event):
    """A message of a job was given up and is in the dead letters, from where it can be replayed."""

    exchange: ClassVar[str] = "jobs"
    key: ClassVar[str] = "job.failed.v1"
    job: ClassVar[JobState | None] = JobState.FAILURE

    reason: Annotated[str, text(64)] = Field(examples=["dead_lettered"])
    detail: Annotated[str, text(500)] = Field(examples=["RuntimeError: the price list is empty"])


class JobProgressed(Event):
    """The progress of a job. Transient: the latest one is enough."""

    exchange: ClassVar[str] = "jobs"
    key: ClassVar[str] = "job.progressed.v1"
    job: ClassVar[JobState | None] = JobState.STARTED
    transient: ClassVar[bool] = True

    done: int = Field(ge=0, examples=[4000])
    total: int | None = Field(default=None, ge=0, examples=[10000], description="None while it is not known.")
    unit: Annotated[str, text(32)] = Field(examples=["rows"])
    rate: float | None = Field(default=None, ge=0, description="Units a second, so far.")
    seconds_left: float | None = Field(default=None, ge=0, description="At that rate; None while it is not known.")


class LetterSettled(Event):
    """A dead letter that was sent again has had its effect, now or before."""

    exchange: ClassVar[str] = "jobs"
    key: ClassVar[str] = "letter.settled.v1"

    letter_id: UUID
    number: int = Field(ge=1, description="1 when the letter is sent again for the first time, and so on.")
