"""What goes wrong: each script is a fault from its beginning to its end, and draws who is hit from `world.random`.

A script returns once the fault is over; what recovers after that has to recover by itself.
"""

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aio_pika
from uuid_utils.compat import uuid7

from contracts.flow import FLOW, LANES
from shared.wire import PROBLEM
from tests.chaos import poison, verdict
from tests.chaos.proxy import Link
from tests.chaos.world import LADDER, World
from tests.running import until

Script = Callable[[World], Awaitable[None]]
DEAD_AFTER = 8.0
"""Seconds without a heartbeat, after which a process counts as dead."""
_HIT_TOO = (aio_pika.exceptions.AMQPError, aio_pika.exceptions.ChannelInvalidStateError, OSError, TimeoutError)
"""What a script's own connection may say: the broker has faults of its own meanwhile."""
STATISTICS_SECONDS = 6.0
"""The management API counts every five seconds."""


@dataclass(frozen=True)
class Fault:
    """A script; what it strikes (two that strike the same are not done at once); on which database it can be done."""

    script: Script
    strikes: str
    only_on: str | None = None

    @property
    def name(self) -> str:
        return self.script.__name__


FAULTS: list[Fault] = []


def fault(strikes: str, only_on: str | None = None) -> Callable[[Script], Script]:
    def register(script: Script) -> Script:
        FAULTS.append(Fault(script, strikes, only_on))
        return script

    return register


# -- processes --------------------------------------------------------------------------------------------------------


@fault("processes")
async def a_process_is_killed_and_started_again(world: World) -> None:
    await _die(world, world.a_process(), world.random.uniform(0, 2))


@fault("processes")
async def all_processes_of_a_service_are_killed_at_once(world: World) -> None:
    service = world.random.choice(["orders", "stock", "email"])
    await asyncio.gather(*(_die(world, name, 1.0) for name in world.fleet.of(service)))


@fault("processes")
async def a_process_is_killed_again_and_again(world: World) -> None:
    """Each time it has just begun to work on what the death before left."""
    name = world.a_process(world.random.choice(["orders", "stock", "email", "gateway"]))
    for _ in range(3):
        await _die(world, name, 0)
        await until(world.process(name).is_ready, f"{name} to be ready", 30)
        await asyncio.sleep(world.random.uniform(0, 0.5))
    await _die(world, name, 0)


@fault("processes")
async def a_process_is_frozen_for_a_moment(world: World) -> None:
    async with world.frozen(_told(world, world.a_process())):
        await asyncio.sleep(world.random.uniform(1, 4))


@fault("processes")
async def a_process_is_frozen_for_longer_than_the_dead_are_waited_for(world: World) -> None:
    name, began = _told(world, world.a_process()), time.time()
    async with world.frozen(name):
        await asyncio.sleep(DEAD_AFTER + world.random.uniform(2.5, 5))
    world.was_dead(name, began)


@fault("processes")
async def a_process_is_told_to_end(world: World) -> None:
    name = _told(world, world.a_process())
    await world.process(name).stop()
    world.process(name).start()


@fault("processes")
async def a_clock_jumps(world: World) -> None:
    """And jumps back when it is put right."""
    name, hours = world.a_process(), world.random.choice([-6, -0.5, 0.5, 6])
    world.say(f"  {name}: {hours:+g} h")
    world.set_clock(name, hours * 3600)
    await asyncio.sleep(world.random.uniform(3, 6))
    world.set_clock(name, 0)


async def _die(world: World, name: str, seconds: float) -> None:
    world.kill(_told(world, name))
    await asyncio.sleep(seconds)
    world.process(name).start()


def _told(world: World, name: str) -> str:
    world.say(f"  {name}")
    return name


# -- the broker -------------------------------------------------------------------------------------------------------


@fault("broker")
async def the_broker_dies_while_orders_are_confirmed(world: World) -> None:
    await asyncio.to_thread(world.rabbit.kill)
    await asyncio.sleep(world.random.uniform(0, 3))
    await asyncio.to_thread(world.rabbit.start)


@fault("broker")
async def the_broker_closes_connections(world: World) -> None:
    """Most of them, several times."""
    for _ in range(world.random.randint(1, 3)):
        for connection in sorted(await world.manage("GET", "/connections") or [], key=lambda found: found["name"]):
            if world.random.random() < 0.7:
                await world.manage("DELETE", f"/connections/{connection['name']}")
        await asyncio.sleep(world.random.uniform(0.2, 2))


@fault("broker")
async def the_broker_closes_channels(world: World) -> None:
    """As it does with one on which something impossible was asked for."""
    ask = "{'queue.declare', 0, <<\"there is none\">>, true, false, false, false, false, []}"
    number = world.random.randint(0, 9)
    some = f"[C || {{N, C}} <- lists:zip(lists:seq(1, length(L)), L), (N + {number}) rem 3 =:= 0]"
    world.say(f"  those whose number is {-number % 3} modulo 3")
    await world.eval(f"L = rabbit_channel:list(), [rabbit_channel:do(C, {ask}) || C <- {some}], ok.")


@fault("alone")
async def a_lane_is_deleted_and_declared_again(world: World) -> None:
    """Somebody deletes a queue and applies the topology again. What is in it goes with it, and so does an event that
    other lanes take, so nothing is on its way just then."""
    lane = _told(world, world.random.choice(LANES))
    async with world.shop.closed():
        await until(lambda: _is_calm(world), "all to be done", 90)
        await world.manage("DELETE", f"/queues/%2F/{lane}")
        await asyncio.sleep(world.random.uniform(1, 4))
        await world.apply_topology()


async def _is_calm(world: World) -> bool:
    return not await verdict.unrest(world)


@fault("alone")
async def the_lane_of_outgoing_mail_is_deleted_under_load(world: World) -> None:
    """What only one lane takes is nowhere to be routed to then: it stays in the outbox."""
    lane = "email.outgoing"
    async with world.administrator() as channel:
        queue = await channel.get_queue(lane, ensure=False)
        for message in (message for message, lanes in FLOW.items() if lane in lanes):  # or it would never be empty
            await queue.unbind(message.exchange, message.key)
        await asyncio.sleep(STATISTICS_SECONDS)  # or what it says would be of a time before that
        await until(lambda: _is_empty(world, lane), f"{lane} to be empty", 60)
        await queue.delete(if_unused=False, if_empty=False)
        await asyncio.sleep(world.random.uniform(2, 6))
    await world.apply_topology()


async def _is_empty(world: World, lane: str) -> bool:
    """With what is delivered and not acknowledged, which only the management API tells."""
    found = [await world.manage("GET", f"/queues/%2F/{name}") for name in (lane, *(f"retry.{step}" for step in LADDER))]
    return all(queue and queue.get("messages") == 0 for queue in found)


# -- links ------------------------------------------------------------------------------------------------------------


def _victims(world: World, what: str) -> list[Link]:
    names = [name for name, of in world.links if of == what]
    some = world.random.sample(names, world.random.choice([1, 1, 2, len(names)]))
    world.say(f"  {', '.join(some) if len(some) < len(names) else 'all'}: {what}")
    return [world.links[name, what] for name in some]


async def _cut(world: World, what: str) -> None:
    links = _victims(world, what)
    for _ in range(world.random.randint(1, 4)):
        for link in links:
            link.cut()
        await asyncio.sleep(world.random.uniform(0.1, 2))


async def _delay(world: World, what: str) -> None:
    delay, rate = world.random.choice([(0.2, 0), (0.02, 20_000), (0.0, 50_000)])

    def slow(link: Link) -> None:
        link.delay, link.rate = delay, rate

    await _spoil(world, what, slow, 3, 6)


async def _spoil(world: World, what: str, spoil: Callable[[Link], None], least: float, most: float) -> None:
    """So many seconds."""
    links = _victims(world, what)
    for link in links:
        spoil(link)
    await asyncio.sleep(world.random.uniform(least, most))
    for link in links:
        link.heal()


@fault("links")
async def links_to_the_broker_are_cut(world: World) -> None:
    await _cut(world, "broker")


@fault("links")
async def links_to_the_broker_are_slow(world: World) -> None:
    await _delay(world, "broker")


@fault("links")
async def links_to_the_broker_hold_their_breath(world: World) -> None:
    await _spoil(world, "broker", Link.hold, 2, 12)


@fault("links")
async def links_to_the_broker_become_black_holes(world: World) -> None:
    await _spoil(world, "broker", Link.forget, 2, 8)


@fault("links", only_on="postgresql")
async def links_to_the_database_are_cut(world: World) -> None:
    await _cut(world, "database")


@fault("links", only_on="postgresql")
async def links_to_the_database_are_slow(world: World) -> None:
    await _delay(world, "database")


@fault("links", only_on="postgresql")
async def links_to_the_database_hold_their_breath(world: World) -> None:
    await _spoil(world, "database", Link.hold, 2, 12)


@fault("links", only_on="postgresql")
async def links_to_the_database_become_black_holes(world: World) -> None:
    await _spoil(world, "database", Link.forget, 2, 8)


# -- databases --------------------------------------------------------------------------------------------------------


@fault("databases")
async def somebody_locks_a_database(world: World) -> None:
    """On SQLite for longer than a writer waits for it."""
    service = world.random.choice(["orders", "stock", "email", "gateway"])
    table = world.random.choice(["inbox", "outbox", "processes"])
    world.say(f"  {service}: {table}")
    async with world.locked(service, table):
        await asyncio.sleep(world.random.uniform(3, 13))


@fault("databases")
async def the_disk_of_the_databases_is_full(world: World) -> None:
    with world.full_disk():
        await asyncio.sleep(world.random.uniform(3, 6))
    if world.postgres and not world.postgres.pid:  # it gave up; whoever made room starts it
        await asyncio.to_thread(world.postgres.start)


@fault("databases", only_on="postgresql")
async def postgresql_dies(world: World) -> None:
    assert world.postgres
    await asyncio.to_thread(world.postgres.kill)
    await asyncio.sleep(world.random.uniform(0, 3))
    await asyncio.to_thread(world.postgres.start)


@fault("databases", only_on="postgresql")
async def postgresql_is_restarted(world: World) -> None:
    assert world.postgres
    await asyncio.to_thread(world.postgres.stop)
    await asyncio.to_thread(world.postgres.start)


# -- messages ---------------------------------------------------------------------------------------------------------


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
        with contextlib.suppress(*_HIT_TOO):
            async with world.administrator() as channel:
                await kind(channel, mark)
                return
        await asyncio.sleep(0.5)
