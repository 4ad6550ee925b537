"""Memory of each process, at rest and the most of it while orders are placed as fast as they are taken.

RSS counts what processes share in each of them; USS is what would be free if the process ended.
"""

import asyncio
from contextlib import AbstractAsyncContextManager, suppress

import psutil

from tests.bench.common import Figure, Machines, alone, beside, family
from tests.bench.shops import PEER, Shop, malote, peer, run

ORDERS = 1_500
LOOK_SECONDS = 0.5  # looking costs the kernel some milliseconds a process
WHAT = ("RSS at rest", "USS at rest", "RSS peak", "USS peak")


def measure(machines: Machines, scale: float) -> list[Figure]:
    number = max(int(ORDERS * scale), 100)
    ours = asyncio.run(_measure(malote(machines, "postgresql"), number))
    theirs = asyncio.run(_measure(peer(machines), number))
    services, own = ({n: f for n, f in found.items() if n not in machines.processes()} for found in (ours, theirs))
    return [
        *(
            beside(f"memory of our processes, {what}", _sum(services, what), "MB", PEER, _sum(own, what))
            for what in WHAT
        ),
        *(alone(f"memory of {name}, {what}", ours[name][what], "MB") for name in ours for what in WHAT),
        *(alone(f"memory of {PEER}: {name}, {what}", own[name][what], "MB") for name in own for what in WHAT),
    ]


async def _measure(open_: AbstractAsyncContextManager[Shop], number: int) -> dict[str, dict[str, float]]:
    """MB by process: at rest (after its first orders), and the most of it."""
    async with open_ as shop:
        await asyncio.sleep(1)  # what follows from the last order is over by then
        rest = {name: _look(process) for name, process in shop.processes.items()}
        peak = dict(rest)
        working = asyncio.create_task(run(shop, number))
        while not working.done():
            await asyncio.sleep(LOOK_SECONDS)
            for name, process in shop.processes.items():
                rss, uss = await asyncio.to_thread(_look, process)
                peak[name] = max(peak[name][0], rss), max(peak[name][1], uss)
        await working
    return {name: dict(zip(WHAT, (*rest[name], *peak[name]), strict=True)) for name in rest}


def _look(process: psutil.Process) -> tuple[float, float]:
    """RSS and USS of a process and its children, in MB."""
    rss = uss = 0
    for member in family(process):
        with suppress(psutil.Error):  # it has just ended
            memory = member.memory_full_info()
            rss, uss = rss + memory.rss, uss + memory.uss
    return rss / 1e6, uss / 1e6


def _sum(found: dict[str, dict[str, float]], what: str) -> float:
    return sum(values[what] for values in found.values())
