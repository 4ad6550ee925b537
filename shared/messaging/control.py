"""What a process says of itself, and what it is told: ping, quiet, stop, pause, resume, rate.

It has a connection of its own: whatever happens to that, lanes go on. What a process is told lasts until it ends.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import aio_pika
import structlog
from aio_pika.abc import AbstractIncomingMessage
from pydantic import ValidationError
from uuid_utils.compat import uuid7

from contracts.broker import CONTROL, control_queue
from contracts.processes import Control, ProcessSeen
from shared.config.tls import Tls
from shared.messaging import process
from shared.messaging.causes import cause_of
from shared.messaging.decode import reason_of
from shared.messaging.publisher import Publisher, address, outgoing
from shared.messaging.subscription import Subscription
from shared.persistence.database import Backoff

log = structlog.get_logger(__name__)

SEEN_SECONDS = 5.0
MOST_BYTES = 10_000
BY_AN_OPERATOR = "paused by an operator"


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class Controlled:
    """One service in one process: its lanes, and what is known of them."""

    def __init__(
        self,
        service: str,
        version: str,
        subscriptions: Sequence[Subscription],
        publisher: Publisher,
        stop: Callable[[], object] = _stop,
    ) -> None:
        self._service, self._version, self._publisher, self._stop = service, version, publisher, stop
        self._subscriptions = subscriptions

    async def say_seen(self, ping_id: str | None = None) -> None:
        """Say that the process lives. Raises `Outage` without a broker: nobody would hear it."""
        lanes = tuple(subscription.consumer.seen() for subscription in self._subscriptions)
        event = ProcessSeen(
            process_id=process.ID,
            service=self._service,
            version=self._version,
            host=process.HOST,
            started_at=process.STARTED_AT,
            cpu_seconds=process.cpu_seconds(),
            memory_bytes=process.memory_bytes(),
            lanes=lanes,
        )
        message = outgoing(event, self._service, None)
        if ping_id:
            message = message.belonging_to(ping_id)
        await self._publisher.publish([message])

    async def obey(self, control: Control) -> None:
        """Do what the process is told."""
        log.info("control: told", **control.model_dump(exclude_none=True))
        match control.do:
            case "ping":
                await self.say_seen(control.ping_id)
            case "stop":
                self._stop()
            case "quiet":
                await self._each(None, lambda one: one.pause("quiet: the process takes nothing new"))
            case "pause":
                await self._each(control.lane, lambda one: one.pause(BY_AN_OPERATOR))
            case "resume":
                await self._each(control.lane, lambda one: one.resume())
            case "rate":
                for subscription in self._of(control.lane):
                    subscription.consumer.pace.rate = control.rate

    async def _each(self, lane: str | None, do: Callable[[Subscription], Coroutine[Any, Any, None]]) -> None:
        for subscription in self._of(lane):
            await do(subscription)

    def _of(self, lane: str | None) -> list[Subscription]:
        return [one for one in self._subscriptions if lane in (None, one.consumer.name)]


async def listen(url: str, service: str, controlled: Controlled, tls: Tls) -> None:
    """Take what the process is told, for ever. Without a broker it is told nothing, and tries again."""
    backoff, is_missed = Backoff(), False
    while True:
        try:
            async with await aio_pika.connect(
                address(url, name=f"{service} control"), ssl_context=tls.context, timeout=10
            ) as connection:
                await _subscribe(connection, service, controlled)
                backoff.reset()
                is_missed = False
                await asyncio.wait([connection.transport.connection.closing])  # type: ignore[union-attr]
        except Exception as error:
            if not is_missed:
                log.warning("control: not listening, trying again", why=cause_of(error))
            is_missed = True
        await backoff.wait()


async def _subscribe(connection: aio_pika.abc.AbstractConnection, service: str, controlled: Controlled) -> None:
    channel = await connection.channel()
    # A name of its own each time: the one before is the lost connection's until the broker notices that it is lost.
    queue = await channel.declare_queue(control_queue(service, uuid7().hex), exclusive=True, auto_delete=True)
    for key in ("all", service, process.ID):
        await queue.bind(CONTROL, key)

    async def take(message: AbstractIncomingMessage) -> None:
        try:
            control = Control.model_validate_json(message.body[:MOST_BYTES])
        except ValidationError as error:
            log.warning("control: not understood", why=reason_of(error))
            return
        try:
            await controlled.obey(control)
        except Exception as error:
            log.warning("control: cannot do it", what=control.do, why=cause_of(error))

    await queue.consume(take, no_ack=True)
