"""A consumer's subscription to its queue at the broker."""

import asyncio

from aio_pika.abc import AbstractRobustConnection, AbstractRobustQueue

from contracts.broker import queue_of
from shared.messaging.amqp.channels import has_consumer
from shared.messaging.consumer import Consumer
from shared.messaging.publisher import BROKER_GONE

TIMEOUT_SECONDS = 10.0
CHECK_SECONDS = 2.0


class Subscription:
    """Lets the broker deliver to a consumer. aio-pika restores it after the connection was lost."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self._queue: AbstractRobustQueue | None = None
        self._tag: str | None = None
        self._turn = asyncio.Lock()
        self._has_stopped = False
        # Whether a cancellation was begun and not answered: aio-pika may have forgotten the tag, and the broker not.
        self._is_unsure = False

    async def start(self, connection: AbstractRobustConnection) -> None:
        """Subscribe, on a channel of its own: its prefetch and its acknowledgements are no other consumer's."""
        channel = await connection.channel(publisher_confirms=False)
        await channel.set_qos(prefetch_count=self.consumer.prefetch)
        # Found, not declared: a service has no permission to.
        name = queue_of(self.consumer.name)
        queue = await channel.declare_queue(name, durable=True, passive=True, timeout=TIMEOUT_SECONDS)
        self._queue, self._tag, self._is_unsure = queue, None, False
        await self.reconcile()

    async def reconcile(self) -> None:
        """Take what comes, or nothing new while the consumer is held. To be called again now and then: the broker may
        be away. Raises what it says."""
        async with self._turn, asyncio.timeout(TIMEOUT_SECONDS):
            if self._queue is None or self._has_stopped:
                return
            if self._tag and (self.consumer.held is not None or self._is_unsure):
                self._is_unsure = True
                await self._queue.cancel(self._tag)
                self._tag, self._is_unsure = None, False
            if self.consumer.held is None and not self._tag:
                self._tag = await self._queue.consume(self.consumer.take)

    async def stop(self) -> None:
        """Take no more. What was taken can still be acknowledged."""
        self._has_stopped = True
        if self._queue and self._tag:
            async with asyncio.timeout(CHECK_SECONDS):
                await self._queue.cancel(self._tag)

    async def is_active(self) -> bool:
        """Whether the broker delivers to this consumer, or is not to: a living connection says nothing about it."""
        if self._queue is None:
            return False
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                channel = await self._queue.channel.get_underlay_channel()
        except BROKER_GONE:
            return False
        if self._tag is None:
            return self.consumer.held is not None and not channel.is_closed
        return has_consumer(channel, self._tag)
