"""What goes to the broker and is not taken."""

import asyncio
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiormq.abc import ChannelFrame
from aiormq.exceptions import PublishError
from pamqp.commands import Basic
from pamqp.heartbeat import Heartbeat
from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from contracts.broker import RETURNS, queue_of
from contracts.flow import COLLECTOR, SERVICES, SHOP
from contracts.orders import CancelOrder
from contracts.stock import StockReleased
from deploy.local.rabbitmq import RabbitNode
from shared.messaging import publisher as publisher_module
from shared.messaging import topology
from shared.messaging.amqp import confirms
from shared.messaging.amqp.confirms import Publish
from shared.messaging.publisher import Outgoing, Publisher, outgoing
from shared.persistence.database import Outage
from tests.running import LADDER, Broker, close, publishing, until


async def test_a_message_that_no_queue_takes_is_said_with_the_job_that_it_belongs_to(broker: Broker) -> None:
    await broker.channel.queue_delete("lane.orders")
    publisher = await publishing(broker.url, "stock")
    good = outgoing(
        StockReleased(order_id=uuid7(), lines=(), was_taken=False, released_at="2026-01-01T00:00:00Z"), "stock", None
    )
    bad = outgoing(CancelOrder(order_id=uuid7()), "gateway", None)
    with capture_logs() as lines:
        assert await publisher.publish([good, bad]) == [True, False]
    await close(publisher)
    (line,) = [line for line in lines if "refused" in line["event"]]
    assert (line["keys"], line["correlation_ids"]) == (["order.cancel.v1"], [bad.envelope.correlation_id])


async def test_a_message_that_may_not_be_sent_keeps_no_other_from_being_sent(
    rabbit: RabbitNode, broker: Broker
) -> None:
    """The broker closes the channel over it, with all that is on its way; such as a dead letter of a lane of old."""
    passwords = {user: f"{user}-password" for user in (*SERVICES, SHOP)}
    await topology.apply(broker.url, rabbit.management_url + "/", passwords, LADDER)
    url = rabbit.url_for(COLLECTOR, passwords[COLLECTOR], urlsplit(broker.url).path.removeprefix("/"))
    publisher = await publishing(url, COLLECTOR)
    letter = replace(outgoing(CancelOrder(order_id=uuid7()), COLLECTOR, None), exchange=f"retry.{LADDER[0]}")
    lanes = ["old.lane", "stock", "email", "old.lane", "old.other", "stock"]
    letters = [replace(letter, lane=lane) for lane in lanes]
    with capture_logs() as lines:
        assert await publisher.publish(letters) == [False, True, True, False, False, True]
    assert await publisher.publish(letters[1:3]) == [True, True]
    await close(publisher)
    assert [line["event"] for line in lines if line["log_level"] == "error"] == [
        "the broker refused messages: is the topology applied?"
    ]

    async def arrived() -> bool:
        return await broker.depth("stock") >= 3 and await broker.depth("email") >= 2

    await until(arrived, "the others")


async def test_of_two_copies_of_a_message_the_one_that_no_queue_takes_is_the_one_refused(broker: Broker) -> None:
    """Such as two lanes' dead letters of it: what the broker returns is known by its id alone."""
    publisher = await publishing(broker.url, COLLECTOR)
    letter = replace(outgoing(CancelOrder(order_id=uuid7()), COLLECTOR, None), exchange=RETURNS)
    lanes = ["stock", "no lane", "email", "no lane"]
    assert await publisher.publish([replace(letter, lane=lane) for lane in lanes]) == [True, False, True, False]
    assert [await broker.depth(lane) for lane in ("stock", "email")] == [1, 1]
    await close(publisher)


async def connected(broker: Broker) -> tuple[Publisher, Any, Outgoing]:
    """A publisher with its channel, and a message that `stock` takes."""
    publisher = await publishing(broker.url, "gateway")
    message = replace(outgoing(CancelOrder(order_id=uuid7()), "gateway", None), exchange=RETURNS, lane="stock")
    return publisher, publisher._channel, message


async def test_a_message_that_cannot_be_written_keeps_no_other_from_being_sent(broker: Broker) -> None:
    publisher = await publishing(broker.url, COLLECTOR)
    good = replace(outgoing(CancelOrder(order_id=uuid7()), COLLECTOR, None), exchange=RETURNS, lane="stock")
    bad = replace(good, lane="s" * 300)
    assert await publisher.publish([good, bad, good]) == [True, False, True]
    assert await broker.depth("stock") == 2
    await close(publisher)


async def test_a_batch_that_is_given_up_before_it_was_sent_is_not_counted(broker: Broker) -> None:
    """Or the broker's answers from then on would be taken for those to other messages."""
    publisher, channel, message = await connected(broker)
    send = Publish(message.body, RETURNS, "stock", message.marked(), True)
    giving_up = asyncio.create_task(confirms.publish(channel, [send], 5.0))
    while not channel.write_queue.full():
        channel.write_queue.put_nowait(ChannelFrame.marshall(0, [Heartbeat()]))
    await asyncio.sleep(0)  # it has begun, and waits for room
    giving_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await giving_up
    assert await broker.depth("stock") == 0
    assert await confirms.publish(channel, [send], 5.0) == [None]
    await close(publisher)


async def test_a_batch_that_cannot_be_written_is_given_up_in_time(broker: Broker) -> None:
    """Such as when the connection ends while it waits for room."""
    publisher, channel, message = await connected(broker)
    async with channel.lock:
        send = Publish(message.body, RETURNS, "stock", message.marked(), True)
        (answer,) = await asyncio.wait_for(confirms.publish(channel, [send], 0.1), 10)
    assert isinstance(answer, TimeoutError)
    assert await publisher.publish([message]) == [True]
    await close(publisher)


async def test_a_channel_without_answers_is_left_and_a_broker_in_an_alarm_is_not_written_to(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, channel, message = await connected(broker)
    unblocked: asyncio.Event = channel.connection._Connection__connection_unblocked
    monkeypatch.setattr(publisher_module, "CONFIRM_SECONDS", 0.0)
    with pytest.raises(Outage, match="no answer"):
        await publisher.publish([message])
    monkeypatch.setattr(publisher_module, "CONFIRM_SECONDS", 0.2)
    unblocked.clear()  # as the broker's `connection.blocked` does
    for _ in range(3):
        with pytest.raises(Outage, match="no channel to the broker"):
            await publisher.publish([message])
    assert channel.is_closed
    assert not [one for one in channel.connection.channels if one], "nothing was opened meanwhile"
    monkeypatch.undo()
    unblocked.set()
    assert await publisher.publish([message]) == [True]
    await close(publisher)


async def test_a_body_larger_than_a_frame_arrives_whole_between_others(broker: Broker) -> None:
    publisher = await publishing(broker.url, "gateway")
    small = replace(outgoing(CancelOrder(order_id=uuid7()), "gateway", None), exchange=RETURNS, lane="stock")
    sizes = [1, 131_064, 131_065, 0, 700_000, 2]
    assert all(await publisher.publish([replace(small, body=b"x" * size) for size in sizes]))
    await close(publisher)
    assert sorted([len((await broker.take("stock")).body) for _ in sizes]) == sorted(sizes)


async def test_what_the_broker_gives_no_answer_to_in_time_is_an_outage(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = await publishing(broker.url, "gateway")
    monkeypatch.setattr(publisher_module, "CONFIRM_SECONDS", 0.0)
    message = outgoing(CancelOrder(order_id=uuid7()), "gateway", None)
    with pytest.raises(Outage, match="no answer"):
        await publisher.publish([message])
    monkeypatch.undo()
    assert await publisher.publish([message]) == [True], "the late answer to the first is nothing to the second"
    await close(publisher)


async def test_what_no_queue_takes_is_said_of_all_that_have_its_id_and_of_no_other(broker: Broker) -> None:
    """The broker names what it returns by the message's id."""
    publisher, channel, message = await connected(broker)
    lost, kept = (Publish(message.body, "", to, message.marked(), True) for to in ("no-such-queue", queue_of("stock")))
    other = kept._replace(properties=Basic.Properties(message_id="another"))
    answers = await confirms.publish(channel, [lost, kept, lost, other, kept, lost], 10.0)
    assert [isinstance(answer, PublishError) for answer in answers] == [True, False, True, False, False, True]
    assert [answer for answer in answers if not isinstance(answer, PublishError)] == [None] * 3
    assert await broker.depth("stock") == 3
    assert await confirms.publish(channel, [kept], 10.0) == [None]
    await close(publisher)


async def test_after_a_queue_has_refused_a_message_another_channel_is_used_and_none_is_left_over(
    broker: Broker,
) -> None:
    """A node of a cluster may refuse on one channel what it would take on another."""
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    queue = await broker.channel.declare_queue("full", exclusive=True, arguments=full)
    await queue.bind(RETURNS, "full")
    publisher, before, message = await connected(broker)
    to_full, to_stock = replace(message, lane="full"), message
    assert await publisher.publish([to_full]) == [True]
    several = await asyncio.gather(*(publisher.publish([to_stock, to_full, to_stock]) for _ in range(20)))
    assert several == [[True, False, True]] * 20, "what is under way on the old channel is not disturbed"
    assert before.is_closed
    number = len(before.connection.channels)
    assert number <= 2, "the one in use, and the one that is being closed"
    await close(publisher)
