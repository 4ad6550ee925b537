"""What goes to the broker and is not taken."""

from dataclasses import replace
from urllib.parse import urlsplit

from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from contracts.flow import COLLECTOR, SERVICES, SHOP
from contracts.orders import CancelOrder
from contracts.stock import StockReleased
from deploy.local.rabbitmq import RabbitNode
from shared import topology
from shared.publisher import Publisher, outgoing
from tests.running import LADDER, Broker, until


async def test_a_message_that_no_queue_takes_is_said_with_the_job_that_it_belongs_to(broker: Broker) -> None:
    await broker.channel.queue_delete("orders")
    publisher = Publisher(broker.url, "stock")
    await publisher.connect()
    good = outgoing(
        StockReleased(order_id=uuid7(), lines=(), was_taken=False, released_at="2026-01-01T00:00:00Z"), "stock", None
    )
    bad = outgoing(CancelOrder(order_id=uuid7()), "gateway", None)
    with capture_logs() as lines:
        assert await publisher.publish([good, bad]) == [True, False]
    await publisher.close()
    (line,) = [line for line in lines if "refused" in line["event"]]
    assert (line["keys"], line["correlation_ids"]) == (["order.cancel.v1"], [bad.envelope.correlation_id])


async def test_a_message_that_may_not_be_sent_keeps_no_other_from_being_sent(
    rabbit: RabbitNode, broker: Broker
) -> None:
    """The broker closes the channel over it, with all that is on its way; such as a dead letter of a lane of old."""
    passwords = {user: f"{user}-password" for user in (*SERVICES, SHOP)}
    await topology.apply(broker.url, rabbit.management_url + "/", passwords, LADDER)
    url = rabbit.url_for(COLLECTOR, passwords[COLLECTOR], urlsplit(broker.url).path.removeprefix("/"))
    publisher = Publisher(url, COLLECTOR)
    await publisher.connect()
    letter = replace(outgoing(CancelOrder(order_id=uuid7()), COLLECTOR, None), exchange=f"retry.{LADDER[0]}")
    lanes = ["old.lane", "stock", "email", "old.lane", "old.other", "stock"]
    letters = [replace(letter, lane=lane) for lane in lanes]
    with capture_logs() as lines:
        assert await publisher.publish(letters) == [False, True, True, False, False, True]
    assert await publisher.publish(letters[1:3]) == [True, True]
    await publisher.close()
    assert [line["event"] for line in lines if line["log_level"] == "error"] == [
        "the broker refused messages: is the topology applied?"
    ]

    async def arrived() -> bool:
        return await broker.depth("stock") >= 3 and await broker.depth("email") >= 2

    await until(arrived, "the others")
