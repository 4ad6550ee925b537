"""A run of chaos: rounds of faults drawn from a seed, while customers come; after each, the way back is timed."""

import asyncio
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import release, verdict
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.world import CHANCE, Kind, Passed, World

BACK_SECONDS = 30.0
"""After the end of a fault, every lane works again by itself within that."""
SETTLE_SECONDS = 120.0
LULL_SECONDS = (0.5, 2.0)


@dataclass
class Outcome:
    """How a run went: nothing is in `problems` if all was kept; `back` is how many seconds the way back took, by
    fault."""

    problems: list[str] = field(default_factory=list)
    back: dict[str, list[float]] = field(default_factory=dict)
    passed_over: list[str] = field(default_factory=list)


def plan(seed: int, kind: Kind, only: str | None = None) -> list[list[Fault]]:
    """Rounds without end enough: each one fault, or two that strike different things at once."""
    chance = random.Random(f"{seed} plan")
    pool = [fault for fault in FAULTS if fault.only_on in (None, kind) and only in (None, fault.name)]
    rounds: list[list[Fault]] = []
    while len(rounds) < 100:
        deck = chance.sample(pool, len(pool))  # each comes before any comes again
        while deck:
            chosen = [deck.pop()]
            others = [fault for fault in deck if "alone" not in (fault.strikes, chosen[0].strikes)]
            others = [fault for fault in others if fault.strikes != chosen[0].strikes]
            if others and chance.random() < 0.4:
                chosen.append(others[-1])
                deck.remove(others[-1])
            rounds.append(chosen)
    return rounds


async def run(
    folder: Path,
    kind: Kind,
    seed: int,
    say: Callable[[str], None],
    rounds: Sequence[Sequence[Fault]],
    seconds: float = math.inf,
    *,
    replays: bool = True,
    old: str | None = None,
) -> Outcome:
    """One run: these rounds, or as many of them as begin in so many seconds. What cannot be done on this machine is
    passed over, and said. With `old`, a revision of ours, the fleet begins as that and is brought up to date first."""
    began = time.monotonic()
    outcome = Outcome()

    def tell(text: str) -> None:
        say(f"{time.monotonic() - began:6.1f} s  {text}")

    world = World(folder, kind, seed, tell, load=4.0, old=await release.unpacked(old, folder) if old else None)
    async with world.running():
        tell("all is ready")
        async with world.shop.open(), world.office.open(replays=replays):
            if old:
                await release.brought_up_to_date(world)
            end = time.monotonic() + seconds
            for number, faults in enumerate(rounds):
                if time.monotonic() > end or outcome.problems:
                    break
                await _round(world, faults, outcome, f"{seed} {number}")
                await asyncio.sleep(random.Random(f"{seed} {number} lull").uniform(*LULL_SECONDS))
        tell("no more customers")
        outcome.problems += await world.shop.served(BACK_SECONDS)
        outcome.problems += await verdict.settled(world, SETTLE_SECONDS)
        outcome.problems += verdict.surprises(world)
        tell(await verdict.told(world))
    return outcome


async def _round(world: World, faults: Sequence[Fault], outcome: Outcome, seed: str) -> None:
    name = " + ".join(fault.name for fault in faults)
    world.say(name)
    world.is_calm = len(faults) == 1
    try:
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                group.create_task(_strike(world, fault, outcome, seed))
    except* Exception as failed:
        outcome.problems.append(f"{name}: the script itself failed: {failed.exceptions!r}")
    ended = time.monotonic()
    back = asyncio.create_task(_back(world))
    await asyncio.wait([back, patience := asyncio.create_task(_patience(BACK_SECONDS))], return_when="FIRST_COMPLETED")
    patience.cancel()
    if back.done():
        took = time.monotonic() - ended
        outcome.back.setdefault(name, []).append(took)
        world.say(f"  back after {took:.1f} s")
        back.result()
        return
    back.cancel()
    missing = await world.unready()
    why = f"not ready: {missing}" if missing else "all are ready, but an order has not come to its end everywhere"
    outcome.problems.append(f"{name}: not back after {BACK_SECONDS:g} s; {why}")


async def _strike(world: World, fault: Fault, outcome: Outcome, seed: str) -> None:
    CHANCE.set(random.Random(f"{seed} {fault.name}"))
    try:
        await fault.script(world)
    except Passed as why:
        outcome.passed_over.append(f"{fault.name}: {why}")
        world.say(f"PASSED OVER: {fault.name}: {why}")


async def _back(world: World) -> None:
    """Until all processes are ready, and an order that is placed then has come to its end everywhere."""
    while not await world.is_ready():  # noqa: ASYNC110 - it is asked over HTTP
        await asyncio.sleep(0.1)
    wish = await world.shop.probe()
    while not await verdict.is_everywhere(world, wish):  # noqa: ASYNC110 - the databases are asked
        await asyncio.sleep(0.1)


async def _patience(seconds: float) -> None:
    """So many seconds of a machine that gets round to them: one that is too busy for us is so for the fleet, too."""
    for _ in range(round(seconds * 10)):
        await asyncio.sleep(0.1)
