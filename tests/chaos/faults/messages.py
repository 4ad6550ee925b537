"""What arrives that nobody asked for: copies, and poison."""

import asyncio
import contextlib
import math
import random
from typing import Any

import aio_pika
from uuid_utils.compat import uuid7

from contracts.flow import FLOW
from deploy.local.rabbitmq import ADMINISTRATOR
from shared.messaging.decode import PROBLEM
from tests.chaos import poison
from tests.chaos.faults.registry import fault
from tests.chaos.world import World

_HIT_TOO = (aio_pika.exceptions.AMQPError, aio_pika.exceptions.ChannelInvalidStateError, OSError, TimeoutError)
"""What a script's own connection may say: the broker has faults of its own meanwhile."""


@fault("messages")
async def every_message_comes_up_to_three_times_and_out_of_order(world: World) -> None:
    """Who reads everything publishes it again, under the same id and in another order."""
    exchanges = sorted({message.exchange for message in FLOW})
    seconds, chance = world.random.uniform(4, 8), random.Random(world.random.random())
    with contextlib.suppress(*_HIT_TOO):
        async with world.administrator() as channel:
            shadow = await channel.declare_queue(exclusive=True)
            for exchange in exchanges:
                await shadow.bind(exchange, "#")
            end = asyncio.get_running_loop().time() + seconds
            held: list[aio_pika.abc.AbstractIncomingMessage] = []
            while asyncio.get_running_loop().time() < end:
                while (message := await shadow.get(fail=False, no_ack=True)) is not None:
                    if not {"chaos", PROBLEM} & message.headers.keys():
                        held += [message] * chance.randint(0, 2)
                chance.shuffle(held)
                some, held = held[: len(held) // 2], held[len(held) // 2 :]
                await _publish_again(channel, some)
                await asyncio.sleep(0.2)
            await _publish_again(channel, held)


async def _publish_again(channel: Any, messages: list[aio_pika.abc.AbstractIncomingMessage]) -> None:
    for found in messages:
        copy = aio_pika.Message(
            found.body,
            headers={**found.headers, "chaos": "a copy"},
            message_id=found.message_id,
            correlation_id=found.correlation_id,
            type=found.type,
            app_id=found.app_id,
            user_id=ADMINISTRATOR,  # who may speak for any service
            timestamp=found.timestamp,
            content_type=found.content_type,
            delivery_mode=2,
        )
        exchange = await channel.get_exchange(found.exchange, ensure=False)
        await exchange.publish(copy, found.routing_key or "", mandatory=False)


@fault("messages")
async def poison_of_every_kind_arrives(world: World) -> None:
    for kind in world.random.sample(poison.KINDS, len(poison.KINDS)):
        await _poison(world, kind, f"poison-{uuid7().hex}")


@fault("messages")
async def orders_that_are_never_placed_are_cancelled(world: World) -> None:
    for _ in range(5):
        await _poison(world, poison.an_order_that_is_never_placed, f"poison-{uuid7().hex}", is_kept_long=True)


async def _poison(world: World, kind: poison.Kind, mark: str, *, is_kept_long: bool = False) -> None:
    """What is not confirmed is sent again, and may then be there as often. What a lane has in hand when something else
    breaks comes again, though its copy may be among the dead letters already."""
    world.poison[mark] = 0 if world.is_calm and not is_kept_long else math.inf
    while True:
        world.poison[mark] += 1
        try:
            async with world.administrator() as channel:
                await kind(channel, mark)
                return
        except aio_pika.exceptions.PublishError:
            raise  # there is no such queue: the script is wrong, and would try for ever
        except _HIT_TOO:
            await asyncio.sleep(0.5)
