"""Checks whether this process may still do work outside the database."""

import asyncio

from shared.messaging import inbox
from shared.messaging.outbox import Outbox


class Ownership:
    """Asks the database whether attempts of a lane still belong to this process, in one query for all callers at a
    time."""

    def __init__(self, lane: str, outbox: Outbox) -> None:
        self._lane, self._outbox = lane, outbox
        self._asked: set[str] = set()
        self._asking: asyncio.Task[set[str]] | None = None
        self._turn = asyncio.Lock()

    async def holds(self, message_id: str) -> bool:
        """Whether no other process has taken this message over, such as while this one was frozen."""
        self._asked.add(message_id)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        return message_id in await asyncio.shield(self._asking)

    async def _ask(self) -> set[str]:
        async with self._turn:  # callers that come during a query share the next one
            asked, self._asked, self._asking = self._asked, set(), None
            async with self._outbox.reading() as session:
                return await inbox.owned(session, self._lane, asked, self._outbox.owner)
