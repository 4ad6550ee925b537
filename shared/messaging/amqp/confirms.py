"""Many messages in one write, each with its own answer from the broker.

aiormq sends a message at a time, each with a lock, a timeout, a task and a write of its own: most of what publishing
cost. What it keeps to match the broker's answers is public, and is used here for all messages of a batch.
"""

import asyncio
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import pamqp.frame
from aiormq.abc import ChannelFrame
from aiormq.exceptions import PublishError
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader
from uuid_utils.compat import uuid4

from shared.messaging.causes import cause_of

Answer = BaseException | None


class Unsendable(Exception):
    """A message that AMQP has no form for, such as one with too long a routing key. The others are sent."""


class Publish(NamedTuple):
    """A message as it is given to the broker."""

    body: bytes
    exchange: str
    routing_key: str
    properties: Basic.Properties
    mandatory: bool


async def publish(channel: Any, messages: Sequence[Publish], seconds: float) -> list[Answer]:
    """Send messages over one of aiormq's channels, in order, and wait for the broker's answer to each: None if it has
    the message, or what is wrong.

    What has no answer after so many seconds has a `TimeoutError`, and what has none because the channel was closed the
    reason of that: whether it arrived is then unknown.
    """
    found: dict[int, Answer] = {}
    for places in _apart(messages):
        answers = await _publish(channel, [messages[place] for place in places], seconds)
        found |= zip(places, answers, strict=True)
    return [found[place] for place in range(len(messages))]


def _apart(messages: Sequence[Publish]) -> list[list[int]]:
    """The messages' places, those of the same id to different places one after the other: by the id alone the broker
    says what it returns. To one place all of them are returned, or none."""
    rounds: list[list[int]] = []
    targets: dict[str, list[tuple[str, str]]] = {}
    for place, message in enumerate(messages):
        message.properties.message_id = id_ = message.properties.message_id or uuid4().hex
        known, target = targets.setdefault(id_, []), (message.exchange, message.routing_key)
        if target not in known:
            known.append(target)
        if (number := known.index(target)) == len(rounds):
            rounds.append([])
        rounds[number].append(place)
    return rounds


async def _publish(channel: Any, messages: Sequence[Publish], seconds: float) -> list[Answer]:
    answers = _Answers(len(messages))
    closed: asyncio.Future[Any] = channel.closing
    try:
        async with asyncio.timeout(seconds):  # for the write, too: it waits for ever if the connection ends meanwhile
            async with channel.lock:
                await _write(channel, messages, answers)
            await asyncio.wait([answers.complete, closed], return_when=asyncio.FIRST_COMPLETED)
        return answers.collected(_reason(closed) if closed.done() else None)
    except TimeoutError:
        return answers.collected(TimeoutError(f"no answer in {seconds:g} s"))
    except Exception as error:  # closed before it was written
        return answers.collected(error)
    finally:
        closed.cancel()


async def _write(channel: Any, messages: Sequence[Publish], answers: "_Answers") -> None:
    """All in one piece. In several, those after the first could get onto a channel that is opened anew under the same
    number, and be counted there."""
    frames: dict[int, bytes] = {}
    for place, message in enumerate(messages):
        try:
            frames[place] = _frames(channel, message)
        except Exception as error:
            answers.put(place, Unsendable(f"it cannot be written as AMQP: {cause_of(error)}"))
    if frames:
        await channel.write_queue.put(ChannelFrame(b"".join(frames.values()), should_close=False))
    # Counted now that nothing keeps it from being sent, or the broker's count would no longer be ours.
    twins: dict[str, list[int]] = {}
    for place in frames:
        message_id = messages[place].properties.message_id or ""
        twins.setdefault(message_id, []).append(place)
        tag = channel.delivery_tag = channel.delivery_tag + 1
        channel.message_id_delivery_tag[message_id] = tag
        channel.confirmations[tag] = _Confirmation(answers, place, twins[message_id], channel, message_id, tag)


def _frames(channel: Any, message: Publish) -> bytes:
    number, limit, body = channel.number, channel.max_content_size, message.body
    method = _method(number, message.exchange, message.routing_key, message.mandatory)
    header = pamqp.frame.marshal(ContentHeader(body_size=len(body), properties=message.properties), number)
    parts = [pamqp.frame.marshal(ContentBody(body[at : at + limit]), number) for at in range(0, len(body), limit)]
    return b"".join([method, header, *parts])


@functools.lru_cache(1024)
def _method(number: int, exchange: str, key: str, mandatory: bool) -> bytes:
    return pamqp.frame.marshal(Basic.Publish(exchange=exchange, routing_key=key, mandatory=mandatory), number)


def _reason(closed: asyncio.Future[Any]) -> BaseException:
    return (None if closed.cancelled() else closed.exception()) or ConnectionError("the channel was closed")


class _Answers:
    """The broker's answers to a batch; `complete` once all are there."""

    def __init__(self, number: int) -> None:
        self._found: list[Answer] = [None] * number
        self._open = set(range(number))
        self.complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not number:
            self.complete.set_result(None)

    def put(self, place: int, answer: Answer) -> None:
        """The first answer counts: what the broker returned is confirmed after it."""
        if place not in self._open:
            return
        self._found[place] = answer
        self._open.discard(place)
        if not self._open and not self.complete.done():
            self.complete.set_result(None)

    def collected(self, instead: Answer) -> list[Answer]:
        """All answers, with `instead` where there is none yet."""
        return [instead if place in self._open else answer for place, answer in enumerate(self._found)]


class _Confirmation:
    """What aiormq keeps for each delivery tag, and tells the answer to, in place of a future."""

    __slots__ = ("_answers", "_channel", "_is_done", "_message_id", "_place", "_tag", "_twins")

    def __init__(
        self, answers: _Answers, place: int, twins: Sequence[int], channel: Any, message_id: str, tag: int
    ) -> None:
        self._answers, self._place, self._is_done = answers, place, False
        self._twins = twins  # all that have the same id: what the broker returns of one of them is said of each
        self._channel, self._message_id, self._tag = channel, message_id, tag

    def done(self) -> bool:
        return self._is_done

    def cancelled(self) -> bool:
        return False

    def set_result(self, _: object) -> None:
        self._end(None)

    def set_exception(self, error: BaseException) -> None:
        if isinstance(error, PublishError):
            for place in self._twins:
                self._answers.put(place, error)
        self._end(error)

    def _end(self, answer: Answer) -> None:
        self._is_done = True
        if self._channel.message_id_delivery_tag.get(self._message_id) == self._tag:
            del self._channel.message_id_delivery_tag[self._message_id]
        self._answers.put(self._place, answer)
