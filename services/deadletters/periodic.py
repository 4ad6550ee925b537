"""What deadletters does by itself."""

from contracts.flow import LANES
from services.deadletters import handlers, store
from services.deadletters.settings import DeadlettersSettings
from shared.messaging.outbox import Outbox
from shared.messaging.periodic import every, once
from shared.observability import metrics
from shared.persistence.database import Database


@every(0.25)
async def step(database: Database, outbox: Outbox, settings: DeadlettersSettings) -> None:
    """Go on with each action that an operator began."""
    async with database.reading() as session:
        running = await store.running(session)
    for action_id in running:  # one that cannot go on must not hold up the others
        await once(f"action {action_id}", handlers.step, outbox, action_id, settings.retry_ladder)


@every(2)
async def tell(database: Database, outbox: Outbox) -> None:
    """Have operators told of new letters."""
    async with database.reading() as session:
        if not await store.has_news(session):
            return
    await handlers.tell_operators(outbox)


@every(5)
async def measure(database: Database) -> None:
    """Count the letters that wait, by lane."""
    async with database.reading() as session:
        waiting = await store.waiting(session)
    metrics.DEAD_LETTERS.clear()  # of a lane that is there no more, as long as letters of it are
    for lane in {*LANES, *waiting}:
        metrics.DEAD_LETTERS.labels(lane).set(waiting.get(lane, 0))


@every(60)
async def tidy(database: Database, settings: DeadlettersSettings) -> None:
    """Forget letters that were dealt with long ago."""
    while await store.forget(database, settings.keep_days):
        pass
