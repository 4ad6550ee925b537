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
        self._consumer = consumer
        self._queue: AbstractRobustQueue | None = None
        self._tag = ""

    async def start(self, connection: AbstractRobustConnection) -> None:
        """Subscribe, on a channel of its own: its prefetch and its acknowledgements are no other consumer's."""
        channel = await connection.channel(publisher_confirms=False)
        await channel.set_qos(prefetch_count=self._consumer.prefetch)
        # Found, not declared: a service has no permission to.
        name = queue_of(self._consumer.name)
        queue = await channel.declare_queue(name, durable=True, passive=True, timeout=TIMEOUT_SECONDS)
        self._tag = await queue.consume(self._consumer.take, timeout=TIMEOUT_SECONDS)
        self._queue = queue

    async def stop(self) -> None:
        """Take no more. What was taken can still be acknowledged."""
        if self._queue:
            async with asyncio.timeout(CHECK_SECONDS):
                await self._queue.cancel(self._tag)

    async def is_active(self) -> bool:
        """Whether the broker delivers to this consumer: a living connection says nothing about it."""
        if self._queue is None:
            return False
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                channel = await self._queue.channel.get_underlay_channel()
        except BROKER_GONE:
            return False
        return has_consumer(channel, self._tag)
