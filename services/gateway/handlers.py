"""What the gateway does with messages: each message of a job moves the job. No kind of job has code of its own."""

from typing import TYPE_CHECKING, Union

from contracts.base import JobState, Message
from contracts.flow import FLOW
from contracts.jobs import JobFailed
from services.gateway import domain
from services.gateway.store import jobs
from services.gateway.store.jobs import Job
from shared.messaging.handler import Poison, on
from shared.messaging.unit import UnitOfWork

JOB_MESSAGES = tuple(message for message, route in FLOW.items() if "gateway" in route.lanes)
if TYPE_CHECKING:
    JobMessage = Message
else:
    JobMessage = Union[JOB_MESSAGES]  # noqa: UP007 - for the AsyncAPI document


@on(*JOB_MESSAGES, loads_jobs=jobs.load_jobs)
async def on_job_message(message: JobMessage, unit: UnitOfWork) -> None:
    """Move the jobs that a message names. A job that is not found was started by a shop's own system."""
    assert unit.cause
    for job_id, said in message.job_states(unit.job_id).items():
        job = unit.get(Job, jobs.as_uuid(job_id))
        if job is None or not domain.is_about(job.kind, job.resource_id, message):
            continue  # a shop's own job, or another's order under a stolen id
        if message.exchange == JobFailed.exchange and not domain.is_worker(unit.cause.user, job.kind):
            raise Poison(f"{unit.cause.user or 'a nameless user'} has nothing to do with a job {job.kind}")
        done, error = (job.progress or {}).get("done", 0), (job.error or {}).get("code")
        if move := domain.move(JobState(job.status), said, message, done, error):
            is_first_end = move.status.is_final and job.ended_at is None
            jobs.apply(job, move, unit.cause)
            jobs.changes.announce(unit.session, job.id)
            if is_first_end:
                jobs.count_end(unit.session, job)
