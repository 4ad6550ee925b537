"""Idempotency keys: what was answered to each, for two days."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger
from sqlmodel import Field

from services.gateway.domain import Key
from services.gateway.store import Base
from shared.http.problems import Problem
from shared.persistence import clock
from shared.persistence.database import Database, Outage, load
from shared.persistence.retention import delete_old

KEEP_KEYS_HOURS = 48
"""A client may count on 24 hours."""
PURGE_SECONDS = 60.0


class IdempotencyKey(Base, table=True):
    """What was answered to a key. `id` and `payload` are digests: see `domain.Key`."""

    __tablename__ = "idempotency_keys"

    id: str = Field(primary_key=True, max_length=64)
    payload: str = Field(max_length=64)
    job_id: UUID
    resource_id: UUID | None = None
    created_at: int = Field(sa_type=BigInteger)


table: Any = IdempotencyKey.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Receipt:
    """The job that a request became, or had become when it came before under the same key."""

    job_id: UUID
    resource_id: UUID | None
    is_replay: bool = False


def reused() -> Problem:
    """The refusal of a key that came with another request."""
    return Problem(422, "idempotency_key_reused", "This Idempotency-Key came with another request before.")


def again(key: Key, earlier: dict[str, Any] | None) -> Receipt | Exception:
    """What becomes of a request whose key came before, with that row."""
    if earlier is None:
        return Outage("the idempotency key was being forgotten just now")
    if earlier["payload"] != key.payload:
        return reused()
    return Receipt(earlier["job_id"], earlier["resource_id"], is_replay=True)


async def earlier(database: Database, key: Key) -> Receipt | None:
    """What was answered to a key, if it came before. Raises `Problem` 422 if that was with another payload."""
    async with database.reading() as session:
        found = await load(session, IdempotencyKey, [key.id])
    outcome = again(key, found[0].model_dump()) if found else None
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


async def forget(database: Database) -> None:
    """Delete the keys that were kept for their time. The caller repeats this every `PURGE_SECONDS`."""
    async with database.reading() as session:
        before = await clock.old_enough(session, table.c.created_at, KEEP_KEYS_HOURS * 3600, PURGE_SECONDS)
    await delete_old(database, IdempotencyKey, table.c.created_at < before)
