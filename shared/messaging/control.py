"""What a process says of itself, and what it is told: ping, quiet, stop, pause, resume, rate.

It has a connection of its own: whatever happens to that, lanes go on. An instruction is kept until the process
ends.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Sequence

import aio_pika
import structlog
from aio_pika.abc import AbstractIncomingMessage
from pydantic import ValidationError
from uuid_utils.compat import uuid7

from contracts.broker import CONTROL, control_queue
from contracts.processes import Control, ProcessSeen
from shared.messaging import process
from shared.messaging.causes import cause_of
from shared.messaging.decode import reason_of
from shared.messaging.publisher import Publisher, outgoing
from shared.messaging.subscription import Subscription
from shared.observability import tracing

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
        with tracing.off():
            message = outgoing(event, self._service, None)
            await self._publisher.publish([message.belonging_to(ping_id) if ping_id else message])

    async def obey(self, control: Control) -> None:
        """Do what the process is told."""
        log.info("control: received an instruction", **control.model_dump(exclude_none=True))
        match control.do:
            case "ping":
                await self.say_seen(control.ping_id)
            case "stop":
                self._stop()
            case "quiet":
                await self._hold(None, "quiet: the process takes nothing new")
            case "pause":
                await self._hold(control.lane, BY_AN_OPERATOR)
            case "resume":
                await self._hold(control.lane, None)
            case "rate":
                for subscription in self._of(control.lane):
                    subscription.consumer.pace.rate = control.rate

    async def _hold(self, lane: str | None, why: str | None) -> None:
        """Hold lanes, or let them go on. What the broker does not take now is done when it is there again."""
        lanes = self._of(lane)
        for subscription in lanes:
            subscription.consumer.held = why
        await asyncio.gather(*(subscription.reconcile() for subscription in lanes), return_exceptions=True)

    def _of(self, lane: str | None) -> list[Subscription]:
        return [one for one in self._subscriptions if lane in (None, one.consumer.name)]


async def listen(service: str, controlled: Controlled, connection: aio_pika.Connection) -> None:
    """Take what the process is told, as long as the connection lasts. Without one it is told nothing."""
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
            log.warning("control: an instruction failed", what=control.do, why=cause_of(error))

    await queue.consume(take, no_ack=True)
