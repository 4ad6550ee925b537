"""What happens to processes: they die, freeze, are told to end, and lose track of time."""

import asyncio
import time

from tests.chaos.faults.registry import fault, told
from tests.chaos.world import World
from tests.running import until

DEAD_AFTER = 8.0
"""Seconds without a heartbeat, after which a process counts as dead."""


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
    async with world.frozen(told(world, world.a_process())):
        await asyncio.sleep(world.random.uniform(1, 4))


@fault("processes")
async def a_process_is_frozen_for_longer_than_the_dead_are_waited_for(world: World) -> None:
    name, began = told(world, world.a_process()), time.time()
    async with world.frozen(name):
        await asyncio.sleep(DEAD_AFTER + world.random.uniform(2.5, 5))
    world.was_dead(name, began)


@fault("processes")
async def a_process_is_frozen_for_forty_seconds(world: World) -> None:
    """Its sibling takes over what it had in hand; when it thaws, it may do none of that again."""
    name, began = told(world, world.a_process(world.random.choice(["orders", "stock", "email"]))), time.time()
    async with world.frozen(name):
        await asyncio.sleep(40)
    world.was_dead(name, began)


@fault("processes")
async def a_process_is_told_to_end(world: World) -> None:
    name = told(world, world.a_process())
    await world.process(name).stop()
    world.process(name).start()


@fault("processes")
async def the_clock_of_the_gateway_is_days_ahead(world: World) -> None:
    """It tidies by that clock what others still need, unless it asks the database what time it is."""
    name = told(world, world.a_process("gateway"))
    world.set_clock(name, 3 * 86_400)
    world.kill(name)  # it tidies soon after its start
    world.process(name).start()
    await until(world.process(name).is_ready, f"{name} to be ready", 30)
    await asyncio.sleep(world.random.uniform(3, 6))
    world.set_clock(name, 0)


@fault("processes")
async def a_clock_jumps(world: World) -> None:
    """And jumps back when it is put right."""
    name, hours = world.a_process(), world.random.choice([-72, -6, -0.5, 0.5, 6, 72])
    world.say(f"  {name}: {hours:+g} h")
    world.set_clock(name, hours * 3600)
    await asyncio.sleep(world.random.uniform(3, 6))
    world.set_clock(name, 0)


async def _die(world: World, name: str, seconds: float) -> None:
    world.kill(told(world, name))
    await asyncio.sleep(seconds)
    world.process(name).start()
