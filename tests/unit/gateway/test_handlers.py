"""What moves a job, and what only looks as if it did."""

from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from contracts.orders import OrderConfirmed
from services.gateway import handlers
from services.gateway.store import Job
from shared.clock import now
from shared.testing import Harness
from tests.running import an_order


@pytest.fixture
async def gateway() -> AsyncIterator[Harness]:
    async with Harness(handlers, Job) as harness:
        yield harness


def a_job(order_id: UUID) -> Job:
    at = now()
    known = {"kind": "order.place", "owner": "ana", "status": "PENDING", "timeline": [], "revision": 1}
    return Job(id=uuid7(), order_id=order_id, created_at=at, updated_at=at, **known)


def confirmed(order_id: UUID) -> OrderConfirmed:
    order = an_order(order_id=order_id)
    return OrderConfirmed(**order.model_dump(exclude={"placed_at"}), confirmed_at=order.placed_at)


async def test_the_orders_own_end_ends_its_job(gateway: Harness) -> None:
    job = a_job(uuid7())
    await gateway.given(job)
    await gateway.when(confirmed(job.order_id), job=str(job.id))
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
    await gateway.when(confirmed(job.order_id), job=spelling(str(job.id)))
    assert (await gateway.row(Job, job.id)).status == "PENDING"
