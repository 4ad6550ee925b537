"""Lists, a page at a time."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel, select
from uuid_utils.compat import uuid7

from shared.http.pages import Cursor, paginate
from shared.persistence.database import Database


class Base(SQLModel, registry=registry()):
    pass


class Thing(Base, table=True):
    id: UUID = Field(primary_key=True)


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
