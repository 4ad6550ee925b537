"""The upgrade from the version whose queues had the names of exchanges, on a real broker."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aio_pika
import pytest

from contracts.broker import dead_letters_of, queue_of
from contracts.flow import FLOW, LANES
from contracts.jobs import LetterSettled
from contracts.orders import OrderPlaced
from contracts.stock import StockReserved
from deploy.local.rabbitmq import RabbitNode
from services.stock.store import Reservation
from shared.config.settings import seconds
from shared.messaging import old_queues, topology
from shared.messaging.decode import MESSAGE_LIMIT
from shared.messaging.handler import on
from shared.messaging.unit import UnitOfWork
from tests.integration.reserving import count
from tests.running import LADDER, PASSWORDS, Broker, an_order, module_of, reserved, running, until
from tests.servers import manage

OLD_LADDER = (*LADDER, "10m")
OLD_LANES = ("stock", "email")
_KEPT = {"x-queue-type": "quorum", "x-overflow": "reject-publish"}


async def declare_as_it_was(channel: aio_pika.abc.AbstractChannel) -> None:
    """The topology of that version, as far as it is about these lanes."""
    for name in topology.exchanges(OLD_LADDER):
        if not name.startswith(("gate.", "lanes")):
            await channel.declare_exchange(name, "topic", durable=True)
    safe = {**_KEPT, "x-dead-letter-strategy": "at-least-once"}
    for lane in OLD_LANES:
        dead = {"x-dead-letter-exchange": "dead-letters", "x-dead-letter-routing-key": lane, "x-delivery-limit": 100}
        await channel.declare_queue(lane, durable=True, arguments={**safe, **dead})
        await (await channel.declare_queue(f"{lane}.dlq", durable=True, arguments=_KEPT)).bind("dead-letters", lane)
    for step in OLD_LADDER:
        back = {"x-dead-letter-exchange": "", "x-message-ttl": int(seconds(step) * 1000)}
        queue = await channel.declare_queue(f"retry.{step}", durable=True, arguments={**safe, **back})
        await queue.bind(f"retry.{step}", "#")
    for message, (_, lanes) in FLOW.items():
        for lane in set(lanes) & {*OLD_LANES}:
            await (await channel.get_queue(lane)).bind(message.exchange, message.key)


@pytest.fixture
async def old(vhost: str) -> AsyncIterator[Broker]:
    """A broker with that topology."""
    async with await aio_pika.connect(vhost) as connection:
        channel = await connection.channel()
        await declare_as_it_was(channel)
        yield Broker(vhost, channel)


@on(OrderPlaced)
async def on_order_placed(order: OrderPlaced, unit: UnitOfWork) -> StockReserved:
    unit.add(Reservation(order_id=order.order_id, state="RESERVED", lines={}))
    return reserved(order.order_id)


async def test_what_waits_in_old_queues_is_moved_under_load_and_done_once(
    rabbit: RabbitNode, old: Broker, tmp_path: Path
) -> None:
    """With a consumer of the old version that has messages in hand, cut short, and done again."""
    letters = await old.spy(("stock", StockReserved.key), ("jobs", LetterSettled.key))
    for _ in range(50):
        await old.publish(an_order())
    held = [await (await old.channel.get_queue("stock")).get() for _ in range(10)]
    again = {"type": "order.placed.v1", "headers": {"attempt": 2}}
    for step in OLD_LADDER:  # those of the shortest wait come out before, or while, they are moved
        await old.send(an_order().model_dump_json().encode(), f"retry.{step}", "stock", message_id=step, **again)
    await old.send(b"{", "dead-letters", "stock", message_id="dead", headers={"failure_reason": "why"})
    over = asyncio.Event()
    going_on = asyncio.create_task(_publish_until(over, old))
    applying = asyncio.create_task(_apply(rabbit, old))
    await asyncio.sleep(1)
    applying.cancel()
    await asyncio.gather(applying, return_exceptions=True)
    for message in held[:5]:
        await message.ack()  # done by that process
    for message in held[5:]:
        await message.nack()  # it died
    await _apply(rabbit, old)
    over.set()
    sent = await going_on
    await _apply(rabbit, old)
    found = manage(rabbit, "GET", f"/queues/{old.url.rpartition('/')[2]}")
    assert isinstance(found, list)
    assert {queue["name"] for queue in found if not queue["exclusive"]} == set(topology.queues(LADDER))
    handlers = module_of(on_order_placed)
    async with running("stock", old.url, f"sqlite:///{tmp_path}/s.db", handlers) as stock:
        expected = 50 - 5 + len(OLD_LADDER) + sent
        await letters.collect(expected, 60)
        await until(lambda: _is_empty(old), "the lane to be empty")
        assert await count(stock, Reservation) == expected
    assert [message.message_id for message in letters.seen if message.routing_key == LetterSettled.key] == []
    assert await old.depth("stock.dlq") == 1
    letter = await old.take("stock.dlq")
    assert (letter.message_id, letter.headers["failure_reason"], letter.routing_key) == ("dead", "why", "stock")


async def test_what_a_process_of_the_old_version_has_in_hand_is_waited_for(
    rabbit: RabbitNode, old: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(old_queues, "LONGEST_SECONDS", 15.0)  # a busy broker counts new queues late
    await old.publish(an_order())
    message = await (await old.channel.get_queue("stock")).get()
    with pytest.raises(old_queues.Left, match=r"1 in 'stock'\. Stop its processes"):
        await _apply(rabbit, old)
    assert await old.depth("stock") == 0
    await message.nack()
    await _apply(rabbit, old)
    assert await old.depth("stock") == 1


async def test_a_message_that_is_too_large_stays_where_it_is_and_keeps_no_other_there(
    rabbit: RabbitNode, old: Broker
) -> None:
    large = b"x" * (MESSAGE_LIMIT + 1)
    for body in (b"{", large, b"{", large):
        await old.send(body, OrderPlaced.exchange, OrderPlaced.key, message_id="m")
    with pytest.raises(old_queues.TooLarge, match=r"bytes.*: 2 in 'email', 2 in 'stock'\. They stay there"):
        await _apply(rabbit, old)
    assert await old.depth("stock") == 2
    found = manage(rabbit, "GET", f"/queues/{old.url.rpartition('/')[2]}")
    assert isinstance(found, list)
    assert {queue["name"] for queue in found} - set(topology.queues(LADDER)) == {"stock", "email"}


async def _apply(rabbit: RabbitNode, broker: Broker) -> None:
    await topology.apply(broker.url, rabbit.management_url + "/", PASSWORDS, LADDER)


async def _publish_until(over: asyncio.Event, broker: Broker) -> int:
    """Return how many orders were published."""
    sent = 0
    while not over.is_set():
        await broker.publish(an_order())
        sent += 1
        await asyncio.sleep(0.01)
    return sent


async def _is_empty(broker: Broker) -> bool:
    return await broker.depth("stock") == 0


def test_no_queue_has_an_exchanges_name() -> None:
    """RabbitMQ's permissions go by name: who may bind to an exchange could read the queue."""
    assert not set(topology.queues()) & set(topology.exchanges())
    assert {queue_of(lane) for lane in LANES} | {dead_letters_of(lane) for lane in LANES} <= set(topology.queues())
