"""The one way to the broker: persistent, confirmed, pipelined; what could not be routed is an error."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aio_pika
import aiormq
import structlog
from aiormq.exceptions import DeliveryError, PublishError
from pamqp.commands import Basic
from uuid_utils.compat import uuid7

from contracts.base import Envelope, Message
from contracts.flow import FLOW
from shared import telemetry
from shared.database import Outage

log = structlog.get_logger(__name__)

CONFIRM_SECONDS = 30.0
BROKER_GONE = (aio_pika.exceptions.AMQPError, ConnectionError, TimeoutError, asyncio.CancelledError)
Properties = Basic.Properties


def is_cancelled(error: BaseException) -> bool:
    """Whether this task itself was told to end; what it waits for, such as a dying channel, can be cancelled too."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and bool(task and task.cancelling())


@contextlib.contextmanager
def gone_is_outage(what: str) -> Iterator[None]:
    """Turn the errors of a broker that is gone into `Outage`."""
    try:
        yield
    except BROKER_GONE as error:
        if is_cancelled(error):
            raise
        raise Outage(f"{what}: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message as it goes on the wire: to `exchange` under the envelope's key."""

    envelope: Envelope
    exchange: str
    body: bytes
    mandatory: bool
    transient: bool = False


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
        traceparent=telemetry.follow(cause.traceparent if cause else traceparent),
    )
    body = message.model_dump_json().encode()
    return Outgoing(envelope, message.exchange, body, bool(FLOW.get(type(message))), message.transient)


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


class Publisher:
    """A connection and a channel for publishing only: a refused publish closes its channel and nobody else's."""

    def __init__(self, url: str, name: str) -> None:
        self._url, self._name = url, name
        self._connection: aio_pika.abc.AbstractRobustConnection | None = None
        self._channel: aio_pika.abc.AbstractChannel | None = None

    async def connect(self) -> None:
        """Raises `Outage` if the broker cannot be reached."""
        with gone_is_outage("no connection to the broker"):
            await self.close()
            self._connection = await aio_pika.connect_robust(
                self._url,
                timeout=10,
                reconnect_interval=1,
                client_properties={"connection_name": f"{self._name} publishing"},
            )
            self._channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)

    async def close(self) -> None:
        if self._connection:
            await self._connection.close()

    @property
    def is_connected(self) -> bool:
        there = self._connection and self._connection.connected.is_set() and not self._connection.is_closed
        return bool(there and self._channel)

    async def publish(self, messages: Sequence[Outgoing]) -> list[bool]:
        """Publish in order and wait for all confirms; say for each whether the broker has it.

        Raises `Outage` if the connection is lost meanwhile: which of them arrived is then unknown.
        """
        channel = await self._underlay()
        sends = [
            self._confirmed(
                channel,
                message.body,
                message.exchange,
                message.envelope.key,
                properties(message.envelope),
                message.mandatory,
            )
            for message in messages
        ]
        results = await asyncio.gather(*sends, return_exceptions=True)
        for error in results:
            if isinstance(error, BaseException) and not isinstance(error, PublishError | DeliveryError):
                raise Outage(f"publishing failed: {error!r}") from error
        refused = [m.envelope.key for m, r in zip(messages, results, strict=True) if r is not None]
        if refused:
            log.error("the broker refused messages: is the topology applied?", keys=sorted(set(refused)))
        telemetry.PUBLISHED.labels(self._name).inc(len(messages) - len(refused))
        return [result is None for result in results]

    async def forward(self, body: bytes, exchange: str, key: str, properties: Properties) -> None:
        """Send one message on, such as to a retry queue; it must arrive somewhere. Raises `Outage`."""
        channel = await self._underlay()
        with gone_is_outage(f"publishing to {exchange!r} failed"):
            await self._confirmed(channel, body, exchange, key, properties, True)

    async def _underlay(self) -> aiormq.abc.AbstractChannel:
        if not self.is_connected or self._channel is None:
            raise Outage("no connection to the broker")
        with gone_is_outage("no channel to the broker"):
            async with asyncio.timeout(CONFIRM_SECONDS):
                return await self._channel.get_underlay_channel()

    @staticmethod
    async def _confirmed(
        channel: aiormq.abc.AbstractChannel,
        body: bytes,
        exchange: str,
        key: str,
        properties: Properties,
        mandatory: bool,
    ) -> None:
        # `wait=False`: the confirm is awaited, so waiting for the socket to drain as well would only cost time.
        await channel.basic_publish(  # type: ignore[call-arg]
            body,
            exchange=exchange,
            routing_key=key,
            properties=properties,
            mandatory=mandatory,
            timeout=CONFIRM_SECONDS,
            wait=False,
        )
