"""Vhosts with the topology in them that tests use in turns: to make one and to remove it costs a third of a second of
the broker's work, and more with each lane that there is; to empty one costs a tenth of that.
"""

import asyncio
import contextlib
import json
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import aio_pika

from deploy.local.rabbitmq import ADMINISTRATOR, RabbitNode
from shared.messaging import topology
from tests.servers import create_vhost, manage

NUMBER = 2
REST_SECONDS = 0.5
"""What waits to be tried again in a vhost comes back to its lane meanwhile, and is emptied with it."""
_GONE_SECONDS = 5.0


class Vhosts:
    """A few, each with the same topology; the one that has rested longest is next. A test that leaves consumers behind,
    or another topology, costs its vhost."""

    def __init__(self, node: RabbitNode, ladder: tuple[str, ...]) -> None:
        self._node, self._ladder = node, ladder
        self._rested: deque[tuple[str, float]] = deque()
        self._whole: dict[str, Any] = {}

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[str]:
        """An empty one for as long as the block lasts: the administrator's address."""
        name = await self._next()
        try:
            yield self._url(name)
        finally:
            self._rested.append((name, time.monotonic()))

    async def _next(self) -> str:
        if len(self._rested) >= NUMBER:
            name, since = self._rested.popleft()
            await asyncio.sleep(max(0.0, since + REST_SECONDS - time.monotonic()))
            if self._topology(name) == self._whole and await self._is_emptied(name):
                return name
            manage(self._node, "DELETE", f"/vhosts/{name}")
        name = f"t{secrets.token_hex(4)}"
        create_vhost(self._node, name)
        await topology.declare(self._url(name), self._ladder)
        self._whole = self._whole or self._topology(name)
        return name

    def _url(self, name: str) -> str:
        return self._node.url_for(ADMINISTRATOR, self._node.password, name)

    def _topology(self, name: str) -> dict[str, Any]:
        found: Any = manage(self._node, "GET", f"/definitions/{name}")
        return {part: sorted(map(json.dumps, of)) for part, of in found.items() if isinstance(of, list)}

    async def _is_emptied(self, name: str) -> bool:
        """False if somebody still consumes there."""
        queues = sorted(topology.queues(self._ladder), key=lambda queue: not queue.startswith("wait."))
        end = time.monotonic() + _GONE_SECONDS
        async with await aio_pika.connect(self._url(name)) as connection:
            channel = await (await connection.channel()).get_underlay_channel()
            for queue in queues:
                while (seen := await channel.queue_declare(queue, passive=True)).consumer_count:
                    if time.monotonic() > end:
                        return False
                    await asyncio.sleep(0.02)
                if seen.message_count:
                    await channel.queue_purge(queue)
        return True
