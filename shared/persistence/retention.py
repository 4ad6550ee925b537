"""Deletes rows that nobody asks for any more."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, select

from shared.persistence.database import Database

DELETED_AT_ONCE = 500


async def delete_old(database: Database, table: Any, *conditions: Any) -> None:
    """Delete the rows of a mapped class that fit all conditions, by their `id`, in short transactions."""
    some = select(table.id).where(*conditions).limit(DELETED_AT_ONCE)
    some = some.with_for_update(skip_locked=True)  # without those that another process deletes
    found: Sequence[Any] = [None] * DELETED_AT_ONCE
    while len(found) == DELETED_AT_ONCE:
        async with database.transaction() as session:
            found = (await session.scalars(some)).all()
            await session.execute(delete(table).where(table.id.in_(found)))
