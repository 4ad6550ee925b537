"""The inbox forgets, in small steps, which messages were done long ago."""

from shared.messaging import inbox
from shared.messaging.outbox import Outbox

EVERY_SECONDS = 30.0
AT_ONCE = 500


async def purge(outbox: Outbox, keep_days: int) -> None:
    """Forget what is old enough by the database's clock, however much that is."""
    async with outbox.reading() as session:
        before = await inbox.old_enough(session, keep_days, EVERY_SECONDS)
    forgotten = AT_ONCE
    while forgotten == AT_ONCE:
        async with outbox.unit() as unit:
            forgotten = await inbox.forget_old(unit.session, before, AT_ONCE)
