"""What the gateway does by itself."""

from services.gateway.store import keys
from services.gateway.store.jobs import changes
from services.gateway.store.keys import PURGE_SECONDS
from shared.messaging.periodic import every
from shared.persistence.changes import POLL_SECONDS
from shared.persistence.database import Database


@every(POLL_SECONDS)
async def poll(database: Database) -> None:
    """Wake those who wait for jobs that other processes moved."""
    await changes.look(database)


@every(PURGE_SECONDS)
async def forget(database: Database) -> None:
    """Forget old idempotency keys."""
    await keys.forget(database)
