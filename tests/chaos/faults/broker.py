"""What happens to the broker: it dies, closes, refuses, and loses a part of its topology."""

import asyncio

from contracts.broker import queue_of, waiting_queue
from contracts.flow import FLOW, LANES, SERVICES
from tests.chaos import verdict
from tests.chaos.faults.registry import fault, told
from tests.chaos.world import LADDER, World
from tests.running import until

OWNERS = sorted({message.exchange for message in FLOW})
STATISTICS_SECONDS = 6.0
"""The management API counts every five seconds."""


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
    lane = told(world, world.random.choice(LANES))
    async with world.shop.closed():
        await until(lambda: _is_calm(world), "all to be done", 90)
        await world.manage("DELETE", f"/queues/%2F/{queue_of(lane)}")
        await asyncio.sleep(world.random.uniform(1, 4))
        await world.apply_topology()


async def _is_calm(world: World) -> bool:
    return not await verdict.unrest(world)


@fault("alone")
async def the_lane_of_outgoing_mail_is_deleted_under_load(world: World) -> None:
    """What only one lane takes is nowhere to be routed to then: it stays in the outbox."""
    lane = "email.outgoing"
    async with world.administrator() as channel:
        queue = await channel.get_queue(queue_of(lane), ensure=False)
        for message in (one for one, route in FLOW.items() if lane in route.lanes):  # or it would never be empty
            await queue.unbind(message.exchange, message.key)
        await asyncio.sleep(STATISTICS_SECONDS)  # or what it says would be of a time before that
        await until(lambda: _is_empty(world, lane), f"{lane} to be empty", 60)
        await queue.delete(if_unused=False, if_empty=False)
        await asyncio.sleep(world.random.uniform(2, 6))
    await world.apply_topology()


async def _is_empty(world: World, lane: str) -> bool:
    """With what is delivered and not acknowledged, which only the management API tells."""
    names = (queue_of(lane), *map(waiting_queue, LADDER))
    found = [await world.manage("GET", f"/queues/%2F/{name}") for name in names]
    return all(queue and queue.get("messages") == 0 for queue in found)


@fault("broker")
async def exchanges_are_made_anew_under_load(world: World) -> None:
    """Somebody deletes an exchange, and applies the topology again, several times while orders come."""
    for _ in range(4):
        await world.manage("DELETE", f"/exchanges/%2F/{told(world, world.random.choice(OWNERS))}")
        await asyncio.sleep(world.random.uniform(0, 1))
        await world.apply_topology()
        await asyncio.sleep(world.random.uniform(0.2, 2))


@fault("broker")
async def the_topology_is_applied_again_under_load(world: World) -> None:
    for _ in range(3):
        await world.apply_topology()


@fault("broker")
async def the_broker_has_an_alarm(world: World) -> None:
    """It reads from no publisher until that is over."""
    kind = world.random.choice(["memory", "disk"])
    world.say(f"  {kind}")
    alarm = f"{{resource_limit, {kind}, node()}}"
    await world.eval(f"rabbit_alarm:set_alarm({{{alarm}, []}}).")
    await asyncio.sleep(world.random.uniform(5, 20))
    await world.eval(f"rabbit_alarm:clear_alarm({alarm}).")


@fault("broker")
async def a_password_is_changed_at_the_broker(world: World) -> None:
    """And its connections are closed. The service has the old one; after some seconds the broker has it again, too."""
    service = told(world, world.random.choice(SERVICES))
    await world.set_password(service, "another")
    for connection in await world.manage("GET", "/connections") or []:
        if connection.get("user") == service:
            await world.manage("DELETE", f"/connections/{connection['name']}")
    await asyncio.sleep(world.random.uniform(4, 12))
    await world.set_password(service)
