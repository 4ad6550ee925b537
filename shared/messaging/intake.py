"""The deliveries of a lane: those that wait, those that are being handled, and their acknowledgements."""

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence

import aio_pika

IncomingMessage = aio_pika.abc.AbstractIncomingMessage


class Lost(Exception):
    """The channel of a delivery is gone: it can no longer be acknowledged, and the broker delivers it again."""


def is_lost(raw: IncomingMessage) -> bool:
    """Whether the channel that a message came through is gone: the broker will deliver it again."""
    try:
        return bool(raw.channel.is_closed)
    except (aio_pika.exceptions.AMQPError, RuntimeError):
        return True


class Intake:
    """The deliveries of one lane from their arrival to their acknowledgement."""

    def __init__(self) -> None:
        self.waiting: deque[IncomingMessage] = deque()
        """Delivered and not begun."""
        self.at_work: list[IncomingMessage] = []
        """Deliveries of the current batch without an outcome; they begin again if the batch fails as a whole."""
        self.arrived = asyncio.Event()
        """Set when something may be waiting."""
        self._unanswered: dict[
            int, tuple[IncomingMessage, float]
        ] = {}  # by identity, in order of arrival; when it arrived

    async def take(self, raw: IncomingMessage) -> None:
        """Receive a delivery. It is acknowledged when its outcome is committed."""
        self._unanswered[id(raw)] = raw, time.monotonic()
        self.waiting.append(raw)
        self.arrived.set()

    def begin(self, most: int) -> list[IncomingMessage]:
        """Up to `most` deliveries to work on; they are `at_work` from now on."""
        self.at_work = [self.waiting.popleft() for _ in range(min(len(self.waiting), most))]
        if not self.waiting:
            self.arrived.clear()
        return list(self.at_work)

    def begin_again(self, raws: Iterable[IncomingMessage]) -> None:
        """Put deliveries back in front of the waiting ones."""
        self.waiting.extendleft(reversed(list(raws)))
        self.at_work = []
        self.arrived.set()

    def unanswered(self) -> list[tuple[IncomingMessage, float]]:
        """The deliveries that are not acknowledged, each with its arrival by the monotonic clock."""
        self._unanswered = {key: found for key, found in self._unanswered.items() if not is_lost(found[0])}
        return list(self._unanswered.values())

    async def acknowledge(self, raws: Sequence[IncomingMessage]) -> None:
        """Acknowledge deliveries that have an outcome, in one frame if every earlier delivery of the channel is
        acknowledged.

        Raises `Lost` if the channel is gone: the broker delivers the messages again, and the inbox knows them.
        """
        answered = {id(raw) for raw in raws}
        self.at_work = [raw for raw in self.at_work if id(raw) not in answered]
        for key in answered:
            self._unanswered.pop(key, None)
        if any(map(is_lost, raws)):
            raise Lost
        last = max(raws, key=_tag)
        here = [raw for raw, _ in self.unanswered() if raw.channel is last.channel]
        if all(raw.channel is last.channel for raw in raws) and all(_tag(raw) > _tag(last) for raw in here):
            await _acknowledge(last, multiple=True)
            return
        for raw in raws:
            await _acknowledge(raw)


def _tag(raw: IncomingMessage) -> int:
    return raw.delivery_tag or 0


async def _acknowledge(raw: IncomingMessage, *, multiple: bool = False) -> None:
    try:
        await raw.channel.basic_ack(_tag(raw), multiple=multiple, wait=False)
    except (aio_pika.exceptions.AMQPError, ConnectionError, RuntimeError) as error:
        raise Lost from error
