"""Which processes of a service live. Each writes a heartbeat into the database, and sees which heartbeats have stopped.

A heartbeat is compared only with its own earlier value, not with a clock, so a process with a wrong clock lives as
well.
"""

import math
import socket
import time
from collections.abc import Sequence

from sqlalchemy import Column, Float, String, Table, Text, delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from shared.messaging import inbox
from shared.persistence.database import kernel_metadata

HEARTBEAT_SECONDS = 2.0
DEAD_AFTER_SECONDS = 8.0

processes = Table(
    "processes",
    kernel_metadata,
    Column("id", String(36), primary_key=True),
    Column("host", Text, nullable=False),
    Column("seen_at", Float, nullable=False),
)

Beat = tuple[str, float]
"""A process, and the time in its heartbeat."""


class Membership:
    """One process of a service. It works on the table in the transactions of its callers."""

    def __init__(self) -> None:
        self.id = str(uuid7())
        self._beaten_at = -math.inf  # when the last heartbeat was written that others can have seen
        self._lapsed = False  # the one before it was so long ago that others may have taken what we have in hand
        self._watched: dict[str, tuple[float, float]] = {}  # other processes' heartbeats, and when we saw them change
        self._looked_at = 0.0

    async def beat(self, session: AsyncSession) -> float:
        """Write the heartbeat of this process, if it is due; return its time, for `committed`.

        The first rows of a process, also after an outage, have a heartbeat with them; otherwise another process would
        adopt the rows.
        """
        now = time.monotonic()
        if now - self._beaten_at < HEARTBEAT_SECONDS / 2:
            return self._beaten_at
        self._lapsed |= self.may_be_dead()
        values = {"host": socket.gethostname(), "seen_at": time.time()}
        beat = inbox.INSERTS[session.get_bind().dialect.name](processes).values(id=self.id, **values)
        await session.execute(beat.on_conflict_do_update(index_elements=["id"], set_=values))
        return now

    def committed(self, beaten_at: float) -> None:
        """Note that the transaction of a heartbeat is committed, so that other processes can see it."""
        self._beaten_at = max(self._beaten_at, beaten_at)

    def may_be_dead(self) -> bool:
        """Whether other processes take this one for dead, or may do so soon."""
        return -math.inf < self._beaten_at < time.monotonic() - DEAD_AFTER_SECONDS / 2

    def has_lapsed(self) -> bool:
        """Whether other processes may have adopted this process's rows since `begin_anew`."""
        return self._lapsed or self.may_be_dead()

    def begin_anew(self) -> None:
        """Note that this process reads its rows again."""
        self._lapsed = False

    async def dead(self, session: AsyncSession) -> list[Beat]:
        """The processes whose heartbeat has not changed for too long, by this process's monotonic clock.

        After a time without looking, such as an outage, all processes count as alive at first.
        """
        now = time.monotonic()
        if self._was_away(now):
            self._watched.clear()
        before, self._watched, self._looked_at = self._watched, {}, now
        for row in (await session.execute(select(processes.c.id, processes.c.seen_at))).all():
            seen_at, since = before.get(row.id, (row.seen_at, now))
            self._watched[row.id] = (row.seen_at, since if seen_at == row.seen_at else now)
        return [(one, seen) for one, (seen, since) in self._watched.items() if now - since > DEAD_AFTER_SECONDS]

    def _was_away(self, now: float) -> bool:
        return now - self._looked_at > DEAD_AFTER_SECONDS / 2

    async def is_living(self, session: AsyncSession, other: str) -> bool:
        """Whether a process is known to live. A process that has left or was found dead is not in the table."""
        now = time.monotonic()
        if other in self._watched and not self._was_away(now):
            return now - self._watched[other][1] <= DEAD_AFTER_SECONDS
        return (await session.execute(select(processes.c.id).where(processes.c.id == other))).first() is not None

    async def bury(self, session: AsyncSession, dead: Sequence[Beat]) -> None:
        """Delete dead processes from the table, unless their heartbeat has changed meanwhile."""
        for one, seen_at in sorted(dead):
            await session.execute(delete(processes).where(processes.c.id == one, processes.c.seen_at == seen_at))

    async def leave(self, session: AsyncSession) -> None:
        """Delete the heartbeat of this process, so that other processes adopt its rows at once."""
        await session.execute(delete(processes).where(processes.c.id == self.id))
