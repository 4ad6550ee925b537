"""Times as the tables keep them: epoch milliseconds, the same on both databases.

A process's own clock can be wrong, by days, and is good for what people read. What is forgotten for its age is
stamped and judged by the database's clock, which all processes share; how long something takes, by the monotonic one.
"""

import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ColumnElement, cast, func, select
from sqlalchemy.ext.asyncio import AsyncSession

_1970 = 2440587.5
"""As a Julian day."""
AT_MOST_TIMES_AS_FAST = 5


def now() -> int:
    """Epoch milliseconds, by this process's clock."""
    return time.time_ns() // 1_000_000


def of_database(session: AsyncSession) -> ColumnElement[int]:
    """Epoch milliseconds by the database's clock, as part of a statement."""
    return of_dialect(session.get_bind().dialect.name)


def of_dialect(dialect: str) -> ColumnElement[int]:
    """The same for a statement that is built before there is a session."""
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
    """Up to when rows may be forgotten that are kept for `keep` seconds after their `stamp`, by whoever looks every so
    many seconds. Like the column `stamp`, that has so many units `per_second`.

    It goes on from the oldest row, at most `AT_MOST_TIMES_AS_FAST` as time does: whoever is told a wrong time for some
    minutes forgets some minutes too much, and not everything.
    """
    oldest = await session.scalar(select(func.min(stamp)))
    before = (await read(session) / 1000 - keep) * per_second
    return int(before if oldest is None else min(before, oldest + AT_MOST_TIMES_AS_FAST * every * per_second))


def moment(stored: int) -> datetime:
    """A stored time as the contracts have it: aware, in UTC."""
    return datetime.fromtimestamp(stored / 1000, UTC)


def first_id(at: int) -> UUID:
    """The lowest UUIDv7 of a time (epoch milliseconds). Rows that were made earlier have lower ids."""
    return UUID(int=max(0, at) << 80)
