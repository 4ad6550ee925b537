"""The one way to the broker: persistent, confirmed, pipelined; what could not be routed is an error."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import aio_pika
import aiormq
import structlog
from aiormq.exceptions import ChannelAccessRefused, ChannelPreconditionFailed, DeliveryError, PublishError
from pamqp.commands import Basic
from uuid_utils.compat import uuid7
from yarl import URL

from contracts.base import Envelope, Message
from contracts.broker import gate_of, gated
from contracts.flow import BY_KEY, FLOW, NOWHERE
from shared.config.tls import Tls
from shared.config.urls import brokers
from shared.messaging.amqp import confirms
from shared.messaging.amqp.confirms import Publish, Unsendable
from shared.messaging.amqp.connections import CLOSE_SECONDS, KeptConnection
from shared.messaging.causes import cause_of, is_cancelled
from shared.observability import metrics, tracing
from shared.persistence.database import Outage

log = structlog.get_logger(__name__)

CONFIRM_SECONDS = 10.0
"""A channel on which the broker is silent for so long is left for another one."""
JOBS_IN_A_LINE = 20
BROKER_GONE = (
    aio_pika.exceptions.AMQPError,
    aio_pika.exceptions.ChannelInvalidStateError,
    ConnectionError,
    TimeoutError,
    asyncio.CancelledError,
)
REFUSED = (PublishError, DeliveryError, ChannelAccessRefused, ChannelPreconditionFailed, Unsendable)
"""The errors that are about one message: no queue takes it, a queue refuses it, we may not send it, it is larger than
the broker takes, or has no form."""
Properties = Basic.Properties


@contextlib.contextmanager
def gone_is_outage(what: str) -> Iterator[None]:
    """Turn the errors of a broker that is gone into `Outage`."""
    try:
        yield
    except BROKER_GONE as error:
        if is_cancelled(error):
            raise
        raise Outage(f"{what}: {cause_of(error)}") from error


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message as it goes on the wire: to `exchange` under the envelope's key.

    One that was received and is sent on goes under its `lane` instead, with its own `properties` in place of the
    envelope's, whose id is then the outbox's alone.
    """

    envelope: Envelope
    exchange: str
    body: bytes
    mandatory: bool
    transient: bool = False
    lane: str | None = None
    properties: dict[str, Any] | None = None

    @property
    def routing_key(self) -> str:
        return self.lane or self.envelope.key

    def belonging_to(self, correlation_id: str) -> "Outgoing":
        """The same in another job, or in answer to a question of that id."""
        return replace(self, envelope=replace(self.envelope, correlation_id=correlation_id))

    def marked(self) -> Properties:
        """Its AMQP properties."""
        if self.properties is None:
            return properties(self.envelope)
        at = self.properties.get("timestamp")
        own = self.properties | {"timestamp": datetime.fromtimestamp(at, UTC) if at is not None else None}
        return Properties(**own, delivery_mode=2)


def outgoing(message: Message, sender: str, cause: Envelope | None, traceparent: str | None = None) -> Outgoing:
    """Put a message in its envelope: caused by another, or the first of a job, whose id is the message's own."""
    message_id = str(uuid7())
    envelope = Envelope(
        message_id=message_id,
        correlation_id=cause.correlation_id if cause else message_id,
        causation_id=cause.message_id if cause else None,
        key=message.key,
        sender=sender,
        sent_at=datetime.now(UTC),
        traceparent=cause.traceparent if cause else traceparent,
    )
    envelope = tracing.created(message.exchange, envelope)
    body = message.model_dump_json().encode()
    return Outgoing(envelope, message.exchange, body, bool(FLOW.get(type(message), NOWHERE).lanes), message.transient)


def properties(envelope: Envelope, **headers: Any) -> Properties:
    """The envelope as AMQP properties, with CloudEvents 1.0's attributes as its AMQP binding names them."""
    return Properties(
        message_id=envelope.message_id,
        correlation_id=envelope.correlation_id,
        message_type=envelope.key,
        app_id=envelope.sender,
        timestamp=envelope.sent_at,
        content_type="application/json",
        delivery_mode=2,
        headers={
            "causation_id": envelope.causation_id or "",
            "traceparent": envelope.traceparent or "",
            "cloudEvents_specversion": "1.0",
            "cloudEvents_id": envelope.message_id,
            "cloudEvents_source": f"/{envelope.sender}",
            "cloudEvents_type": envelope.key,
            "cloudEvents_time": envelope.sent_at.isoformat(),
            **headers,
        },
    )


def _entry(exchange: str) -> str:
    """Where a message for this exchange is published: at its gate, if it has one."""
    return gate_of(exchange) if exchange in gated() else exchange


class Publisher:
    """A connection and a channel for publishing only: a refused publish closes its channel and nobody else's."""

    def __init__(self, url: str, name: str, tls: Tls | None = None) -> None:
        self._name, self._user = name, URL(brokers(url)[0]).user
        self.connection = KeptConnection(url, tls, f"{name} publishing", self.begin, publishes=True)
        """Whoever runs the process keeps it."""
        self._made: aio_pika.Connection | None = None
        self._channel: aiormq.abc.AbstractChannel | None = None
        self._turn = asyncio.Lock()
        self._in_use: Counter[aiormq.abc.AbstractChannel] = Counter()

    async def begin(self, connection: aio_pika.Connection) -> None:
        """Publish on this connection from now on."""
        self._made, self._channel = connection, None
        await self._underlay()

    @property
    def is_connected(self) -> bool:
        return bool(self._made and self._made.connected.is_set() and not self._made.is_closed)

    async def publish(self, messages: Sequence[Outgoing]) -> list[bool]:
        """Publish in order and wait for all confirms; say for each whether the broker has it.

        Raises `Outage` if the connection is lost meanwhile: which of them arrived is then unknown.
        """
        began = tracing.now()
        results = await self._send(messages)
        if any(isinstance(error, ChannelAccessRefused | ChannelPreconditionFailed) for error in results):
            results = await self._one_by_one(messages, results)
        for error in results:
            if error and not isinstance(error, REFUSED):
                raise Outage(f"publishing failed: {cause_of(error)}") from error
        if began:
            for message, result in zip(messages, results, strict=True):
                tracing.sent(message.exchange, message.envelope, began, result)
        refused = [m.envelope.key for m, r in zip(messages, results, strict=True) if r is not None]
        if refused:
            jobs = [m.envelope.correlation_id for m, r in zip(messages, results, strict=True) if r is not None]
            keys, some = sorted(set(refused)), jobs[:JOBS_IN_A_LINE]
            log.error("the broker refused messages: is the topology applied?", keys=keys, correlation_ids=some)
        self._count([message.envelope.key for message in messages], refused)
        return [result is None for result in results]

    async def _send(self, messages: Sequence[Outgoing]) -> list[BaseException | None]:
        sends = [Publish(m.body, _entry(m.exchange), m.routing_key, m.marked(), m.mandatory) for m in messages]
        return await self._publish(sends)

    async def _publish(self, sends: Sequence[Publish]) -> list[BaseException | None]:
        for send in sends:
            send.properties.user_id = self._user  # the broker refuses another's, so readers can believe it
        channel = await self._underlay()
        self._in_use[channel] += 1
        try:
            answers = await confirms.publish(channel, sends, CONFIRM_SECONDS)
            # RabbitMQ keeps for each channel which node leads a queue. 3.10 looks no further if that node was killed or
            # cut off when the channel sent its first message to the queue: it refuses all messages of this channel for
            # ever, or gives no answer to them.
            if channel is self._channel and any(type(answer) in (DeliveryError, TimeoutError) for answer in answers):
                self._channel = None
            return answers
        finally:
            await self._let_go(channel)

    async def _let_go(self, channel: aiormq.abc.AbstractChannel) -> None:
        """Close the channel if another one is in its place and nobody else uses it."""
        self._in_use[channel] -= 1
        if self._in_use[channel]:
            return
        del self._in_use[channel]
        if channel is not self._channel and not channel.is_closed:
            with contextlib.suppress(Outage), gone_is_outage("closing a channel"):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await channel.close()

    async def _one_by_one(
        self, messages: Sequence[Outgoing], results: Sequence[BaseException | None]
    ) -> list[BaseException | None]:
        """Send again what has no answer because one of them may not be sent: that closed the channel of them all."""
        found = list(results)
        refused: dict[tuple[str, str], BaseException | None] = {}
        for place, (message, result) in enumerate(zip(messages, results, strict=True)):
            if result is None or isinstance(result, PublishError | DeliveryError | Unsendable):
                continue
            to = message.exchange, message.routing_key
            if to not in refused:
                [found[place]] = await self._send([message])
            if to in refused or isinstance(found[place], ChannelAccessRefused):
                found[place] = refused.setdefault(to, found[place])
        return found

    def _count(self, published: Sequence[str], refused: Sequence[str]) -> None:
        missed = Counter(refused)
        for key, number in Counter(published).items():
            message = key if key in BY_KEY else metrics.UNREADABLE  # a dead letter that is sent on can be anything
            metrics.of(metrics.PUBLISHED, self._name, message, "confirmed").inc(number - missed[key])
            metrics.of(metrics.PUBLISHED, self._name, message, "refused").inc(missed[key])

    async def forward(self, sends: Sequence[Publish]) -> list[BaseException | None]:
        """Send messages on, such as to a retry queue, each of which must arrive somewhere; say for each what is wrong.
        Raises `Outage` if there is no connection."""
        return await self._publish(sends)

    async def _underlay(self) -> aiormq.abc.AbstractChannel:
        """The channel to publish on: another one once the broker has closed it. Raises `Outage`."""
        with gone_is_outage("no channel to the broker"):
            async with asyncio.timeout(CONFIRM_SECONDS), self._turn:
                if not self.is_connected or self._made is None or self._made.transport is None:
                    raise Outage("no connection to the broker")
                if self._channel is None or self._channel.is_closed:
                    connection = self._made.transport.connection
                    await connection.ready()  # or a broker that reads nothing, such as in a memory alarm, is written to
                    self._channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
                return self._channel
