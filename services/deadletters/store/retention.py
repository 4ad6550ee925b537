"""Deletes letters that were done or replaced long ago."""

from typing import Any

from sqlalchemy import delete, or_, select

from services.deadletters.store.digests import Digest
from services.deadletters.store.letters import FINISHED, REMOVED_AT_ONCE, Letter, remove
from shared.persistence import clock
from shared.persistence.database import Database

_letters: Any = Letter.__table__  # type: ignore[attr-defined]
_digests: Any = Digest.__table__  # type: ignore[attr-defined]


async def forget(database: Database, keep_days: float) -> int:
    """Delete some letters that were done or replaced long ago; return their number. The caller repeats this until the
    number is 0."""
    finished = or_(*(_letters.c.state == state for state in FINISHED))
    async with database.transaction() as session:
        old = clock.of_database(session) - int(keep_days * 86_400_000)
        query = select(_letters.c.id).where(finished, _letters.c.settled_at < old).limit(REMOVED_AT_ONCE)
        query = query.with_for_update(skip_locked=True)  # without those that another process deletes
        ids = (await session.scalars(query)).all()
        await remove(session, ids)
        await session.execute(delete(_digests).where(_digests.c.sent_at < old))
    return len(ids)
