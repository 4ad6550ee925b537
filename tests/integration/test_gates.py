"""An exchange that is made anew while events are published: each event comes to all of its lanes, or is refused."""

import asyncio

import pytest
from uuid_utils.compat import uuid7

from contracts.broker import gate_of
from contracts.flow import FLOW
from contracts.orders import OrderPlaced
from shared.messaging import topology
from shared.messaging.publisher import outgoing
from shared.persistence.database import Outage
from tests.running import LADDER, Broker, an_order, close, publishing, until

ROUNDS = 4


@pytest.mark.parametrize("deleted", ["orders", gate_of("orders")])
async def test_an_event_that_is_confirmed_while_its_exchange_is_made_anew_is_in_all_of_its_lanes(
    broker: Broker, deleted: str
) -> None:
    over, confirmed = asyncio.Event(), set[str]()
    publishing = asyncio.create_task(_publish_until(over, broker, confirmed))
    for _ in range(ROUNDS):
        before = len(confirmed)
        await broker.channel.exchange_delete(deleted)
        await topology.declare(broker.url, LADDER)
        await until(lambda before=before: _is_longer(confirmed, before), "an event to be confirmed")
    over.set()
    await publishing
    for lane in FLOW[OrderPlaced].lanes:
        queue = await broker.queue(lane)
        found = {(await queue.get(no_ack=True)).message_id for _ in range(await broker.depth(lane))}
        assert confirmed - found == set(), lane


async def _is_longer(found: set[str], before: int) -> bool:
    return len(found) > before


async def _publish_until(over: asyncio.Event, broker: Broker, confirmed: set[str]) -> None:
    """Collect what the broker has confirmed: each is sent until it is."""
    publisher = await publishing(broker.url, "orders")
    while not over.is_set():
        message = outgoing(an_order(order_id=uuid7()), "orders", None)
        try:
            [is_there] = await publisher.publish([message])
        except Outage:  # the channel is opened anew
            await asyncio.sleep(0.02)
            continue
        if is_there:
            confirmed.add(message.envelope.message_id)
    await close(publisher)
