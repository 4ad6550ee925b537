"""What happens to connections: they are cut, slow, silent, or forgotten."""

import asyncio
from collections.abc import Callable

from tests.chaos.faults.registry import fault
from tests.chaos.proxy import Link
from tests.chaos.world import World


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
