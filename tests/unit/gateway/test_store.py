"""Waiting for a job's end."""

import asyncio
import contextlib
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from services.gateway.store import jobs
from services.gateway.store.jobs import Job
from shared.http.stopping import Stopping
from shared.persistence.clock import now
from shared.persistence.database import Database


async def test_an_end_that_comes_while_the_job_is_looked_at_is_seen_without_a_poll(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    states = iter(["PENDING", "SUCCESS"])

    async def job(_: AsyncSession, job_id: UUID) -> Job:
        found = Job(id=job_id, kind="order.place", owner="ana", status=next(states), created_at=now(), updated_at=now())
        jobs.changes._wake([job_id])
        return found

    monkeypatch.setattr(jobs, "job", job)
    database = Database(f"sqlite:///{tmp_path}/jobs.db")
    async with asyncio.timeout(50):
        found = await jobs.ended(database, uuid7(), 60, Stopping())
    await database.dispose()
    assert found
    assert found.status == "SUCCESS"


async def test_who_begins_to_wait_before_the_commit_is_woken_by_it(tmp_path: Path) -> None:
    database, job_id = Database(f"sqlite:///{tmp_path}/jobs.db"), uuid7()
    with contextlib.ExitStack() as waiting:
        async with database.transaction() as session:
            jobs.changes.announce(session, job_id)
            changed = waiting.enter_context(jobs.changes.of(job_id))
        assert changed.is_set()
    await database.dispose()
