"""The inbox forgets what is old enough, on both databases."""

import pytest
from sqlalchemy import select, text

from shared.messaging import purge
from shared.messaging.inbox import inbox
from shared.messaging.outbox import Outbox
from shared.persistence.database import Database


async def test_old_ids_are_forgotten_in_small_steps_and_new_ones_kept(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(database_url)
    await database.create_all()
    monkeypatch.setattr(purge, "AT_ONCE", 3)
    async with database.transaction() as session:
        for number in range(10):
            at = 1 if number else 4_000_000_000
            await session.execute(
                text("INSERT INTO inbox (message_id, lane, received_at) VALUES (:id, 'stock', :at)"),
                {"id": f"m{number}", "at": at},
            )
    await purge.purge(Outbox("stock", database), keep_days=14)
    async with database.reading() as session:
        assert (await session.scalars(select(inbox.c.message_id))).all() == ["m0"]
    await database.dispose()
