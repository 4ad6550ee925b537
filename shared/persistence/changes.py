"""Lets many clients wait for changes, with one query for all of them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import structlog
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession

from shared.persistence.database import Database

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.25
POLL_SHARE = 0.1
"""The largest share of time for queries, however many clients wait. A query for a thousand keys takes up to 10 ms."""
KEYS_AT_ONCE = 1_000
Key = TypeVar("Key")
Revisions = Callable[[AsyncSession, Collection[Key]], Awaitable[Mapping[Key, Any]]]


class Changes(Generic[Key]):
    """Wakes the waiters for a key: at once after a change by this process, a moment later after a change by another.

    `revisions(session, keys)` returns the revision of each key by one query. A changed key has another revision.
    """

    def __init__(self, revisions: Revisions[Key]) -> None:
        self._revisions = revisions
        self._waiting: dict[Key, set[asyncio.Event]] = {}
        self._seen: Mapping[Key, Any] = {}
        self._not_before = 0.0  # by the monotonic clock

    @contextmanager
    def of(self, key: Key) -> Iterator[asyncio.Event]:
        """An event that is set when the key may have changed. Take the event, then read the key, then wait."""
        changed = asyncio.Event()
        self._waiting.setdefault(key, set()).add(changed)
        try:
            yield changed
        finally:
            self._waiting[key].discard(changed)
            if not self._waiting[key]:
                del self._waiting[key]

    def announce(self, session: AsyncSession, key: Key) -> None:
        """Wake the waiters for a key once the session has committed."""
        announced: set[Key] = session.sync_session.info.setdefault(self, set())
        if not announced:
            event.listen(session.sync_session, "after_commit", lambda _: self._wake(announced), once=True)
        announced.add(key)

    def _wake(self, keys: Iterable[Key]) -> None:
        for key in keys:
            for changed in self._waiting.get(key, ()):
                changed.set()

    async def look(self, database: Database) -> None:
        """Find the changes of other processes: one query for a thousand keys, no query without waiters.

        The caller repeats this every `POLL_SECONDS`. If the query takes long, some calls do nothing.
        """
        if not (waiting := list(self._waiting)) or (began := time.monotonic()) < self._not_before:
            return
        found: dict[Key, Any] = {}
        async with database.reading() as session:
            for start in range(0, len(waiting), KEYS_AT_ONCE):
                found |= await self._revisions(session, waiting[start : start + KEYS_AT_ONCE])
        took = time.monotonic() - began
        self._not_before = time.monotonic() + took / POLL_SHARE
        for key, revision in found.items():
            if self._seen.get(key) != revision:
                self._wake([key])
        self._seen = found
