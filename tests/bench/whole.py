"""The whole flow: from the first POST until every order is confirmed and both its mails are with the mail server; ours
also until the read model has it.

Beside it the usual way (`tests/bench/peer`), in turns on the same servers. On SQLite, which nobody runs Celery on, the
rival's figures are those that it had on PostgreSQL.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from statistics import median

from tests.bench.common import Figure, Machines, alone, beside, say
from tests.bench.load import percentile
from tests.bench.shops import CONNECTIONS, PEER, Run, Shop, malote, peer, run

ORDERS = 2_000
ROUNDS = 3


def measure(machines: Machines, scale: float) -> list[Figure]:
    number = max(int(ORDERS * scale), 100)
    ours, theirs, sqlite = [], [], []
    for round_ in range(1, ROUNDS + 1):
        say(f"whole flow, round {round_} of {ROUNDS}")
        theirs.append(asyncio.run(_once(peer(machines), number, PEER)))
        ours.append(asyncio.run(_once(malote(machines, "postgresql"), number, "postgres")))
        sqlite.append(asyncio.run(_once(malote(machines, "sqlite"), number, "sqlite")))
    return [
        *_figures("postgres", ours, PEER, theirs),
        *_figures("sqlite", sqlite, f"{PEER}, on postgres", theirs),
        *_cpu("postgres", ours, theirs),
        *_cpu("sqlite", sqlite, theirs),
        *_each(f"CPU of {PEER}: {{}}", theirs),
    ]


async def _once(open_: AbstractAsyncContextManager[Shop], number: int, what: str) -> Run:
    async with open_ as shop:
        done = await run(shop, number)
    say(f"  {what}: {done.whole:.0f} orders/s, {done.posted:.0f} POST/s")
    return done


def _figures(kind: str, ours: Sequence[Run], rival: str, theirs: Sequence[Run]) -> list[Figure]:
    def both(name: str, value: Callable[[Run], float], unit: str, target: str | None = None) -> Figure:
        return beside(f"{name}, {kind}", _middle(ours, value), unit, rival, _middle(theirs, value), target)

    return [
        both("whole flow", lambda r: r.whole, "orders/s", ">= 3 x, >= 300" if kind == "postgres" else ">= 3 x"),
        both("whole flow without mails", lambda r: r.confirmed, "orders/s"),
        both("POST /v1/orders", lambda r: r.posted, "requests/s", ">= 3 x"),
        both(f"POST /v1/orders, {CONNECTIONS} connections, p50", lambda r: percentile(r.answered, 0.5), "ms"),
        both(f"POST /v1/orders, {CONNECTIONS} connections, p99", lambda r: percentile(r.answered, 0.99), "ms"),
    ]


def _cpu(kind: str, ours: Sequence[Run], theirs: Sequence[Run]) -> list[Figure]:
    mine, peers = (_middle(runs, lambda r: sum(r.cpu.values())) for runs in (ours, theirs))
    return [beside(f"CPU of all, {kind}", mine, "ms/order", PEER, peers), *_each(f"CPU of {{}}, {kind}", ours)]


def _each(name: str, runs: Sequence[Run]) -> list[Figure]:
    """The CPU of each process; a server that was not asked is left out."""
    spent = {process: median(one.cpu[process] for one in runs) for process in runs[0].cpu}
    return [alone(name.format(process), value, "ms/order") for process, value in spent.items() if value > 0]


def _middle(runs: Sequence[Run], value: Callable[[Run], float]) -> float:
    return median(map(value, runs))
