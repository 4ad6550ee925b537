"""Idempotency keys, traces and pages."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel, select
from uuid_utils.compat import uuid7

from shared.http.edge import Cursor, Problem, idempotency_key, paginate
from shared.observability.tracing import follow
from shared.persistence.database import Database


class Base(SQLModel, registry=registry()):
    pass


class Thing(Base, table=True):
    id: UUID = Field(primary_key=True)


def test_a_key_is_the_same_with_and_without_quotes() -> None:
    assert idempotency_key('"abc"') == idempotency_key("abc") == "abc"
    assert idempotency_key(None) is None
    assert idempotency_key("x" * 255) == idempotency_key('"' + "x" * 255 + '"')


@pytest.mark.parametrize("given", ["", '""', "x" * 256, '"' + "x" * 256 + '"'])
def test_a_key_that_is_empty_or_too_long_is_refused(given: str) -> None:
    with pytest.raises(Problem) as refused:
        idempotency_key(given)
    assert refused.value.status == 422


def test_a_trace_that_is_not_recorded_here_passes_through_as_it_came() -> None:
    given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
    assert follow(given) == given


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "nonsense",
        "00-" + "A" * 32 + "-" + "b" * 16 + "-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\n",
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
    ],
)
def test_a_trace_that_is_none_starts_anew(given: str | None) -> None:
    first, second = follow(given), follow(given)
    assert first != second
    assert follow(first)[:36] == first[:36]


@pytest.fixture
async def things(tmp_path: Any) -> Any:
    database = Database(f"sqlite:///{tmp_path}/things.db")
    await database.create_all(Base.metadata)
    ids = [uuid7() for _ in range(5)]
    async with database.transaction() as session:
        session.add_all(Thing(id=id_) for id_ in ids)
    yield database, ids[::-1]
    await database.dispose()


async def page(database: Database, **cursor: Any) -> tuple[list[UUID], bool]:
    async with database.reading() as session:
        rows, more = await paginate(session, select(Thing), Thing.id, Cursor(**cursor))
    return [row.id for row in rows], more


async def test_pages_follow_each_other_newest_first_and_back(things: Any) -> None:
    database, newest = things
    assert await page(database, limit=2) == (newest[:2], True)
    assert await page(database, limit=2, starting_after=newest[1]) == (newest[2:4], True)
    assert await page(database, limit=2, starting_after=newest[3]) == (newest[4:], False)
    assert await page(database, limit=2, ending_before=newest[4]) == (newest[2:4], True)
    assert await page(database, limit=2, ending_before=newest[2]) == (newest[:2], False)
    assert await page(database, limit=5) == (newest, False)
    assert await page(database, limit=5, starting_after=newest[4]) == ([], False)


async def test_a_page_with_both_ends_has_what_is_between_them(things: Any) -> None:
    database, newest = things
    assert await page(database, starting_after=newest[0], ending_before=newest[3]) == (newest[1:3], False)
    assert await page(database, starting_after=newest[0], ending_before=newest[4], limit=2) == (newest[1:3], True)
    assert await page(database, starting_after=newest[0], ending_before=newest[1]) == ([], False)
