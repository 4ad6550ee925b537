"""A consumer's subscription to its queue at the broker."""

import asyncio

from aio_pika import Connection
from aio_pika.abc import AbstractQueue
from aio_pika.exceptions import ChannelInvalidStateError

from contracts.broker import queue_of
from shared.messaging.amqp.channels import has_consumer
from shared.messaging.consumer import Consumer

TIMEOUT_SECONDS = 10.0
CHECK_SECONDS = 2.0


class Subscription:
    """Lets the broker deliver to a consumer."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self._connection: Connection | None = None
        self._queue: AbstractQueue | None = None
        self._tag: str | None = None
        self._turn = asyncio.Lock()
        self._has_stopped = False
        # Whether a cancellation was begun and not answered: aio-pika may have forgotten the tag, and the broker not.
        self._is_unsure = False

    async def start(self, connection: Connection) -> None:
        """Subscribe on a connection; again on the next one when that is lost."""
        self._connection = connection
        async with self._turn:
            self._queue = None
        await self.reconcile()

    async def reconcile(self) -> None:
        """Take what comes, or nothing new while the consumer is held. To be called again now and then: the broker may
        be away, or have ended the subscription, as when the queue was deleted. Raises what it says."""
        async with self._turn, asyncio.timeout(TIMEOUT_SECONDS):
            if self._connection is None or not self._connection.connected.is_set() or self._has_stopped:
                return
            if self._queue is None or not await self._is_kept():
                await self._find(self._connection)
            assert self._queue
            if self._tag and (self.consumer.held is not None or self._is_unsure):
                self._is_unsure = True
                await self._queue.cancel(self._tag)
                self._tag, self._is_unsure = None, False
            if self.consumer.held is None and not self._tag and not self._has_stopped:
                self._tag = await self._queue.consume(self.consumer.take)
            if self._tag and self._has_stopped:  # meanwhile, when there was nothing to cancel
                await self._queue.cancel(self._tag)

    async def _find(self, connection: Connection) -> None:
        """Find the queue, on a channel of its own: its prefetch and its acknowledgements are no other consumer's."""
        if self._queue:
            await self._queue.channel.close()  # what came by it and is not answered comes again
            self._queue = None
        channel = await connection.channel(publisher_confirms=False)
        await channel.set_qos(prefetch_count=self.consumer.prefetch)
        # Found, not declared: a service has no permission to.
        queue = await channel.declare_queue(queue_of(self.consumer.name), durable=True, passive=True)
        self._queue, self._tag, self._is_unsure = queue, None, False

    async def stop(self) -> None:
        """Take no more. What was taken can still be acknowledged."""
        self._has_stopped = True
        if self._queue and self._tag:
            async with asyncio.timeout(CHECK_SECONDS):
                await self._queue.cancel(self._tag)

    async def is_active(self) -> bool:
        """Whether the broker delivers to this consumer, or is not to: a living connection says nothing about it."""
        if self._queue is None or (self._tag is None and self.consumer.held is None):
            return False
        return await self._is_kept()

    async def _is_kept(self) -> bool:
        """Whether the channel is open, and the broker has not ended the subscription."""
        assert self._queue
        try:
            channel = await self._queue.channel.get_underlay_channel()
        except ChannelInvalidStateError:
            return False
        return has_consumer(channel, self._tag) if self._tag else not channel.is_closed
