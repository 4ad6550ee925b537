"""What deadletters runs periodically."""

from contracts.flow import LANES
from services.deadletters import handlers
from services.deadletters.settings import DeadlettersSettings
from services.deadletters.store import actions, digests, letters, retention
from shared.messaging.outbox import Outbox
from shared.messaging.periodic import every, once
from shared.observability import metrics
from shared.persistence.database import Database


@every(0.25)
async def step(database: Database, outbox: Outbox, settings: DeadlettersSettings) -> None:
    """Take each running action one step further."""
    async with database.reading() as session:
        running = await actions.list_running(session)
    for action_id in running:  # the failure of one must not stop the others
        await once(f"action {action_id}", handlers.step, outbox, action_id, settings.retry_ladder)


@every(2)
async def notify(database: Database, outbox: Outbox) -> None:
    """Notify the operators of new letters."""
    async with database.reading() as session:
        if not await digests.has_unsent(session):
            return
    await handlers.notify_operators(outbox)


@every(5)
async def measure(database: Database) -> None:
    """Measure how many letters wait, by lane."""
    async with database.reading() as session:
        waiting = await letters.count_waiting(session)
    metrics.DEAD_LETTERS.clear()  # a removed lane is shown while it has letters
    for lane in {*LANES, *waiting}:
        metrics.DEAD_LETTERS.labels(lane).set(waiting.get(lane, 0))


@every(60)
async def forget(database: Database, settings: DeadlettersSettings) -> None:
    """Delete letters that were done or replaced long ago."""
    while await retention.forget(database, settings.keep_days):
        pass
