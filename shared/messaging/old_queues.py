"""What waits in the queues of the version before lanes had queues of their own names, moved to the new ones.

That version called a lane's queue `orders`, its dead letters' `orders.dlq`, and a retry queue `retry.5s`: names that
exchanges had, too. `malote topology apply` unbinds these queues, moves what is in them, and deletes them once nothing
is left. Cut short at any moment, or done twice, it loses nothing; what was moved twice is known in the inboxes.
Processes of that version that still run lose their consumers by it: their lanes wait until they are replaced.
"""

import asyncio
import contextlib
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

import aio_pika
import aiormq
import httpx
from pydantic import ValidationError

from contracts.broker import DEAD_LETTERS, RETURNS, retry_exchange
from contracts.flow import BY_KEY, LANES
from shared.messaging.amqp import confirms
from shared.messaging.amqp.confirms import Publish
from shared.messaging.amqp.connections import connect
from shared.messaging.amqp.incoming import MESSAGE_LIMIT, Oversized
from shared.messaging.copies import copied
from shared.messaging.decode import SENT_BY, is_shops, key_of
from shared.messaging.intake import IncomingMessage
from shared.messaging.publisher import CONFIRM_SECONDS

AT_ONCE = 500
LONGEST_SECONDS = 60.0
"""How long to wait for what processes of the old version have in hand."""
STATISTICS_SECONDS = 6.0
"""The broker counts what is in hand, and what is on its way out of a retry queue, every five seconds."""
_WAITING = re.compile(r"retry\.\d+(ms|s|m|h)")


@dataclass(frozen=True, slots=True)
class Old:
    """A queue of that version, and where a message in it goes now: (exchange, routing key, properties). By the
    arguments that it was declared with it is told from somebody else's queue of that name."""

    name: str
    route: Callable[[IncomingMessage], tuple[str, str, Any]]
    arguments: Mapping[str, str]

    def is_it(self, queue: Mapping[str, Any]) -> bool:
        """Whether a queue of this name, as the management API shows it, is this one."""
        arguments = {"x-queue-type": "quorum", "x-overflow": "reject-publish", **self.arguments}
        return (queue["arguments"] or {}).items() >= arguments.items()


class Left(Exception):
    """Messages are left in old queues; the text says where, and what to do."""


class TooLarge(Left):
    """Messages stay in old queues because none of their size is read or taken any more; all else has been moved."""


def _lane(lane: str) -> Old:
    dead = {"x-dead-letter-exchange": DEAD_LETTERS, "x-dead-letter-routing-key": lane}
    return Old(lane, lambda raw: (RETURNS, lane, _named(raw, _believed(copied(raw)))), dead)


def _believed(properties: Any) -> Any:
    """Processes of that version did not say who they are."""
    properties.headers.pop(SENT_BY, None)
    return properties


def _named(raw: IncomingMessage, properties: Any) -> Any:
    """One that came without an id gets that of its content, and so its job: it may be moved twice, and is one."""
    contract = BY_KEY.get(key_of(raw))
    if contract and not raw.message_id:
        with contextlib.suppress(ValidationError):  # nobody can read it
            properties.message_id = contract.read(raw.body).identity()
            if is_shops(raw):
                properties.correlation_id = properties.message_id
    return properties


def _dead_letters(lane: str) -> Old:
    return Old(f"{lane}.dlq", lambda raw: (DEAD_LETTERS, lane, raw.properties), {})


def _waiting(name: str, ladder: Sequence[str]) -> Old:
    step = name.removeprefix("retry.")
    exchange = retry_exchange(step if step in ladder else ladder[0])
    return Old(name, lambda raw: (exchange, raw.routing_key or "", raw.properties), {"x-dead-letter-exchange": ""})


def among(queues: Iterable[Mapping[str, Any]], ladder: Sequence[str]) -> list[Old]:
    """Those of that version among a broker's queues, as its management API shows them: retry queues first, since what
    waits in them comes out into the lanes' old queues."""
    shown = {queue["name"]: queue for queue in queues}
    waiting = [_waiting(name, ladder) for name in sorted(shown) if _WAITING.fullmatch(name)]
    known = [*waiting, *map(_dead_letters, LANES), *map(_lane, LANES)]
    return [one for one in known if one.name in shown and one.is_it(shown[one.name])]


class OldQueues:
    """The old queues of a vhost. `unbind` before the new ones are bound where two copies would be tried twice, `move`
    at the end."""

    def __init__(self, amqp_url: str, api: httpx.AsyncClient, vhost: str, ladder: Sequence[str], tls: Any) -> None:
        self._amqp_url, self._api, self._vhost, self._ladder, self._tls = amqp_url, api, vhost, ladder, tls

    async def find(self) -> list[Old]:
        """Those that are there, in the order in which they are to be moved."""
        path = f"/api/queues/{quote(self._vhost, safe='')}?columns=name,arguments"
        return among((await self._api.get(path)).raise_for_status().json(), self._ladder)

    async def unbind(self, old: Sequence[Old]) -> None:
        """Let nothing more come into these queues."""
        if not old:
            return
        async with self._connected() as channel:
            for one in old:
                path = f"/api/queues/{quote(self._vhost, safe='')}/{quote(one.name, safe='')}/bindings"
                for binding in (await self._api.get(path)).raise_for_status().json():
                    if binding["source"]:
                        await channel.queue_unbind(one.name, binding["source"], binding["routing_key"])

    async def move(self, old: Sequence[Old]) -> int:
        """Move what is in these queues, which are unbound, and delete them; return how much that was.

        Raises `Left` if something stays there for too long, such as in the hands of a process that hangs; once all else
        is moved, `TooLarge`.
        """
        waiting = [one for one in old if _WAITING.fullmatch(one.name)]
        rest = [one for one in old if one not in waiting]
        large: Counter[str] = Counter()
        async with self._connected() as channel:
            moved = sum([await self._move(some, channel, large) for some in (waiting, rest)])
        if large:
            raise TooLarge(_stay(large))
        return moved

    async def _move(self, old: Sequence[Old], channel: Any, large: Counter[str]) -> int:
        arrived: asyncio.Queue[tuple[Old, IncomingMessage]] = asyncio.Queue()
        takes = {one.name: partial(_take, arrived, large, one) for one in old}
        tags = {name: (await channel.basic_consume(name, take)).consumer_tag for name, take in takes.items()}
        moved, left, quiet = 0, list(old), time.monotonic()
        while left:
            with contextlib.suppress(TimeoutError):
                moved += await _send_on(channel, [await asyncio.wait_for(arrived.get(), 0.1)], arrived)
                quiet = time.monotonic()
            if time.monotonic() - quiet > STATISTICS_SECONDS:
                for one in [one for one in left if await self._counted(one) <= large[one.name]]:
                    await channel.basic_cancel(tags[one.name])
                    if one.name not in large:
                        await channel.queue_delete(one.name)
                    left.remove(one)
            if left and time.monotonic() - quiet > LONGEST_SECONDS:
                raise Left(await self._why(left))
        return moved

    async def _counted(self, old: Old) -> int:
        """Messages in a queue, with those in hand and on their way out, as the broker counted them last."""
        path = f"/api/queues/{quote(self._vhost, safe='')}/{quote(old.name, safe='')}"
        found = (await self._api.get(path)).raise_for_status().json()
        return int(found.get("messages", 1)) + int(found.get("messages_dlx", 0))

    async def _why(self, left: Sequence[Old]) -> str:
        counts = [f"{await self._counted(one)} in {one.name!r}" for one in left]
        return (
            f"messages of the version before are left: {', '.join(counts)}. Stop its processes, or let them finish "
            "what they have in hand, and run `malote topology apply` again"
        )

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        async with await connect(self._amqp_url, self._tls) as connection:
            channel = await connection.channel()
            await channel.set_qos(AT_ONCE)
            yield await channel.get_underlay_channel()


async def _take(
    arrived: "asyncio.Queue[tuple[Old, IncomingMessage]]",
    large: Counter[str],
    old: Old,
    delivered: aiormq.abc.DeliveredMessage,
) -> None:
    """What is too large is kept in hand, and so goes back at the end: only what stands for it could be sent on."""
    if isinstance(delivered.body, Oversized):
        large[old.name] += 1
    else:
        arrived.put_nowait((old, aio_pika.IncomingMessage(delivered)))


def _stay(large: Mapping[str, int]) -> str:
    counts = ", ".join(f"{number:,} in {name!r}" for name, number in sorted(large.items()))
    return (
        f"messages larger than {MESSAGE_LIMIT:,} bytes, which no service reads: {counts}. They stay there, all else is"
        " moved. Look at them in the broker's management pages, then delete the queue there"
    )


async def _send_on(
    channel: Any, some: list[tuple[Old, IncomingMessage]], arrived: "asyncio.Queue[tuple[Old, IncomingMessage]]"
) -> int:
    """Send on what has arrived; what the broker has is acknowledged. Raises what it says against one."""
    while len(some) < AT_ONCE and not arrived.empty():
        some.append(arrived.get_nowait())
    sends = []
    for old, raw in some:
        exchange, key, properties = old.route(raw)
        properties.user_id = None  # its sender's; the broker would take it from nobody else
        properties.delivery_mode = 2
        sends.append(Publish(raw.body, exchange, key, properties, True))
    for (_, raw), error in zip(some, await confirms.publish(channel, sends, CONFIRM_SECONDS), strict=True):
        if error:
            raise error
        await raw.ack()
    return len(some)
