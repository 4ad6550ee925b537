"""What moves a job, and what only looks as if it did."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from contracts.jobs import JobFailed, JobProgressed, JobRetrying
from contracts.orders import OrderConfirmed
from contracts.reports import ReadModelRebuilt, ReportCancelled, ReportReady
from services.gateway import handlers
from services.gateway.store import jobs
from services.gateway.store.jobs import Job
from shared.persistence.clock import now
from shared.testing import Harness
from tests.running import an_order


@pytest.fixture
async def gateway() -> AsyncIterator[Harness]:
    async with Harness(handlers, Job) as harness:
        yield harness


def a_job(resource_id: UUID, kind: str = "order.place") -> Job:
    at = now()
    known: dict[str, Any] = {"kind": kind, "owner": "ana", "status": "PENDING", "timeline": [], "revision": 1}
    return Job(id=uuid7(), resource_id=resource_id, created_at=at, updated_at=at, **known)


def about(job: Job) -> UUID:
    assert job.resource_id
    return job.resource_id


def confirmed(order_id: UUID) -> OrderConfirmed:
    order = an_order(order_id=order_id)
    return OrderConfirmed(**order.model_dump(), confirmed_at=order.placed_at)


async def test_the_orders_own_end_ends_its_job(gateway: Harness) -> None:
    job = a_job(uuid7())
    await gateway.given(job)
    await gateway.when(confirmed(about(job)), job=str(job.id))
    assert (await gateway.row(Job, job.id)).status == "SUCCESS"


async def test_another_order_under_the_jobs_id_moves_nothing(gateway: Harness) -> None:
    job = a_job(uuid7())
    await gateway.given(job)
    await gateway.when(confirmed(uuid7()), job=str(job.id))
    assert (await gateway.row(Job, job.id)).status == "PENDING"


@pytest.mark.parametrize("spelling", [str.upper, "{{{}}}".format, "urn:uuid:{}".format])
async def test_another_spelling_of_the_jobs_id_is_another_id(gateway: Harness, spelling: object) -> None:
    assert callable(spelling)
    job = a_job(uuid7())
    await gateway.given(job)
    await gateway.when(confirmed(about(job)), job=spelling(str(job.id)))
    assert (await gateway.row(Job, job.id)).status == "PENDING"


def ready(report_id: UUID) -> ReportReady:
    known = {"kind": "orders", "format": "csv", "rows": 1, "bytes": 1, "sha256": "0f"}
    return ReportReady(report_id=report_id, expires_at="2026-01-01T00:00:00Z", **known)


async def test_the_reports_own_end_ends_its_job(gateway: Harness) -> None:
    job = a_job(uuid7(), "report.create")
    await gateway.given(job)
    await gateway.when(ready(uuid7()), job=str(job.id))
    assert (await gateway.row(Job, job.id)).status == "PENDING"
    await gateway.when(ready(about(job)), job=str(job.id))
    assert (await gateway.row(Job, job.id)).status == "SUCCESS"


async def test_what_is_about_an_order_moves_no_job_about_a_report_even_if_they_share_an_id(gateway: Harness) -> None:
    report, rebuild = a_job(uuid7(), "report.create"), a_job(uuid7(), "reports.rebuild")
    rebuild.resource_id = None
    await gateway.given(report, rebuild)
    for job in (report, rebuild):
        await gateway.when(confirmed(about(report)), job=str(job.id))
        assert (await gateway.row(Job, job.id)).status == "PENDING"


async def test_a_rebuild_ends_with_the_read_model(gateway: Harness) -> None:
    job = a_job(uuid7(), "reports.rebuild")
    job.resource_id = None
    await gateway.given(job)
    await gateway.when(ReadModelRebuilt(entries=3), job=str(job.id))
    assert (await gateway.row(Job, job.id)).result == {"entries": 3}


async def test_progress_that_comes_late_changes_nothing_and_a_retry_hides_none(gateway: Harness) -> None:
    job = a_job(uuid7(), "report.create")
    await gateway.given(job)
    for message in (rows(200), rows(100), JobRetrying(attempt=1, retry_in=5)):
        await gateway.when(message, job=str(job.id))
    retrying = await gateway.row(Job, job.id)
    assert (retrying.status, retrying.progress and retrying.progress["done"]) == ("RETRY", 200)
    await gateway.when(rows(100), job=str(job.id))
    assert (await gateway.row(Job, job.id)).revision == retrying.revision
    await gateway.when(rows(200), job=str(job.id))
    again = await gateway.row(Job, job.id)
    assert (again.status, again.progress) == ("STARTED", rows(200).model_dump())


def rows(done: int) -> JobProgressed:
    return JobProgressed(done=done, total=1000, unit="rows", rate=50.0, seconds_left=16.0)


async def test_cancelling_a_report_ends_both_jobs(gateway: Harness) -> None:
    making = a_job(uuid7(), "report.create")
    wish = a_job(about(making), "report.cancel")
    await gateway.given(making, wish)
    cancelled = ReportCancelled(report_id=about(making), report_job_id=str(making.id))
    await gateway.when(cancelled, job=str(wish.id))
    assert (await gateway.row(Job, making.id)).status == "CANCELLED"
    assert (await gateway.row(Job, wish.id)).status == "SUCCESS"


async def test_a_job_has_one_end_for_the_metrics_however_often_it_is_given_up(
    gateway: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(jobs, "count_end", lambda session, job: told.append(job.status))
    job = a_job(uuid7())
    await gateway.given(job)
    given_up = JobFailed(reason="dead_lettered", detail="no such table")
    await gateway.when(given_up, job=str(job.id))
    revision = (await gateway.row(Job, job.id)).revision
    await gateway.when(given_up, job=str(job.id))
    assert (await gateway.row(Job, job.id)).revision == revision
    await gateway.when(confirmed(about(job)), job=str(job.id))
    assert (await gateway.row(Job, job.id)).status == "SUCCESS"
    assert told == ["FAILURE"]
