"""Times as the tables keep them: epoch milliseconds, the same on both databases.

A process's own clock may be wrong by days, so its times are only for people. The database's clock, which all processes
share, stamps rows that expire and decides their age. The monotonic clock measures durations.
"""

import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ColumnElement, cast, func, select
from sqlalchemy.ext.asyncio import AsyncSession

_1970 = 2440587.5
"""The start of 1970 as a Julian day."""
AT_MOST_TIMES_AS_FAST = 5


def now() -> int:
    """Epoch milliseconds, by this process's clock."""
    return time.time_ns() // 1_000_000


def of_database(session: AsyncSession) -> ColumnElement[int]:
    """Epoch milliseconds by the database's clock, as part of a statement."""
    return of_dialect(session.get_bind().dialect.name)


def of_dialect(dialect: str) -> ColumnElement[int]:
    """Epoch milliseconds by the database's clock, for a statement that is built before there is a session."""
    at: Any
    if dialect == "postgresql":
        at = func.extract("epoch", func.clock_timestamp()) * 1000
    else:
        at = (func.julianday("now") - _1970) * 86_400_000.0
    return cast(at, BigInteger)


async def read(session: AsyncSession) -> int:
    """Epoch milliseconds by the database's clock."""
    return int((await session.execute(select(of_database(session)))).scalar_one())


async def old_enough(session: AsyncSession, stamp: Any, keep: float, every: float, *, per_second: int = 1000) -> int:
    """The time before which rows may be deleted: they are kept `keep` seconds after their `stamp`, and are looked at
    every `every` seconds. In the unit of the column `stamp`, which has `per_second` units a second.

    The result starts at the oldest row and moves at most `AT_MOST_TIMES_AS_FAST` as fast as time does. So a clock that
    is wrong for some minutes deletes rows some minutes too early, and never all of them.
    """
    oldest = await session.scalar(select(func.min(stamp)))
    before = (await read(session) / 1000 - keep) * per_second
    return int(before if oldest is None else min(before, oldest + AT_MOST_TIMES_AS_FAST * every * per_second))


def moment(stored: int) -> datetime:
    """A stored time as an aware datetime in UTC, as in contracts."""
    return datetime.fromtimestamp(stored / 1000, UTC)


def first_id(at: int) -> UUID:
    """The lowest UUIDv7 of a time (epoch milliseconds). Rows that were made earlier have lower ids."""
    return UUID(int=max(0, at) << 80)
