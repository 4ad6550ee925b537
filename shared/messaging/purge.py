"""Deletes old rows of the inbox in small steps."""

from shared.messaging import inbox
from shared.messaging.outbox import Outbox

EVERY_SECONDS = 30.0
AT_ONCE = 500


async def purge(outbox: Outbox, keep_days: int) -> None:
    """Delete the rows that are older than `keep_days` by the database's clock."""
    async with outbox.reading() as session:
        before = await inbox.old_enough(session, keep_days, EVERY_SECONDS)
    forgotten = AT_ONCE
    while forgotten == AT_ONCE:
        async with outbox.unit() as unit:
            forgotten = await inbox.forget_old(unit.session, before, AT_ONCE)
