"""Lists, a page at a time: after an id or before one."""

from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

from fastapi import Query
from pydantic import BaseModel, Field
from sqlalchemy import literal, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    """Part of a list. There is more after (or, with `ending_before`, before) it if `has_more`."""

    data: list[T]
    has_more: bool


class Cursor(BaseModel):
    """Which part of a list: `starting_after` an id, `ending_before` one, or what is between the two."""

    limit: int = Field(default=20, ge=1, le=100)
    starting_after: UUID | None = None
    ending_before: UUID | None = None


async def paginate(
    session: AsyncSession,
    query: Any,
    column: Any,
    cursor: Cursor,
    sorted_by: tuple[Any, Callable[[UUID], Any]] | None = None,
) -> tuple[list[Any], bool]:
    """A page of a query, newest rows first, by keyset on a column of ids; and whether there are more rows.

    A UUIDv7 grows with time. For ids of another kind, `sorted_by` has a column of times, and a function that returns a
    query for the time of a row by its id. The page after an unknown id is empty.
    """
    columns, key = [column], column
    if sorted_by is not None:
        columns = [sorted_by[0], column]
        key = tuple_(*columns)

    def edge(of: UUID) -> Any:
        return of if sorted_by is None else tuple_(sorted_by[1](of), literal(of, column.type))

    if cursor.ending_before:
        query = query.where(key > edge(cursor.ending_before))
    if cursor.starting_after:
        query = query.where(key < edge(cursor.starting_after))
    is_backwards = cursor.ending_before and not cursor.starting_after
    query = query.order_by(*(columns if is_backwards else (column.desc() for column in columns)))
    rows = list((await session.scalars(query.limit(cursor.limit + 1))).all())
    found = rows[: cursor.limit]
    return (found[::-1] if is_backwards else found), len(rows) > cursor.limit


CursorOf = Annotated[Cursor, Query()]
