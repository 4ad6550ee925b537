"""What the gateway runs periodically."""

from services.gateway.store import keys
from services.gateway.store.jobs import changes
from services.gateway.store.keys import PURGE_SECONDS
from services.gateway.store.revocations import LOOK_SECONDS, Revoked
from services.gateway.store.unfinished import MEASURE_SECONDS, Unfinished
from shared.messaging.periodic import every
from shared.persistence.changes import POLL_SECONDS
from shared.persistence.database import Database


@every(POLL_SECONDS)
async def poll(database: Database) -> None:
    """Wake the requests that wait for jobs, when another process moved one."""
    await changes.look(database)


@every(PURGE_SECONDS)
async def forget(database: Database) -> None:
    """Delete old idempotency keys."""
    await keys.forget(database)


@every(MEASURE_SECONDS)
async def measure(database: Database, unfinished: Unfinished) -> None:
    """Count the unfinished jobs."""
    await unfinished.measure(database)


@every(LOOK_SECONDS)
async def revoked(database: Database, known: Revoked) -> None:
    """Read which tokens were revoked at other gateways."""
    await known.look(database)
