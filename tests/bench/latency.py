"""From the POST to the moment when the order is confirmed in the database, at a rate that leaves the machine idle.

Measured the same way on both sides: who asks the database for its open orders every 5 ms sees one confirmed. What a
client sees that waits for the answer (`Prefer: wait`) is measured beside, on ours alone.
"""

import asyncio
import json
import time
from uuid import UUID

from sqlalchemy import bindparam, text

from deploy.local.ports import HOST
from tests.bench.common import Figure, Machines, alone, beside, say
from tests.bench.load import Answer, at_a_rate, percentile
from tests.bench.shops import PEER, Shop, malote, peer, request

RATE = 20
SECONDS = 30
ROUNDS = 3
LOOK_SECONDS = 0.005
CONFIRMED = text("SELECT id FROM orders WHERE id IN :ids AND state = 'CONFIRMED'").bindparams(
    bindparam("ids", expanding=True)
)


def measure(machines: Machines, scale: float) -> list[Figure]:
    number = max(int(RATE * SECONDS * scale), 40)
    say(f"POST to confirmed, {number} orders at {RATE} a second")
    theirs, ours, waited = asyncio.run(_measure(machines, number))
    figures = []
    for part, target, alone_target in ((50, None, None), (99, "<= 0.333 x, <= 100", "<= 100")):
        mine, peers, waits = (percentile(times, part / 100) for times in (ours, theirs, waited))
        name = f"POST to confirmed at {RATE} orders/s, p{part}, postgres"
        figures += [
            beside(name, mine, "ms", PEER, peers, target),
            alone(f"{name}, as `Prefer: wait` answers", waits, "ms", alone_target),
        ]
    return figures


async def _measure(machines: Machines, number: int) -> tuple[list[float], list[float], list[float]]:
    """In turns: what the machine does meanwhile hits both alike."""
    theirs, ours, waited = [], [], []
    for _ in range(ROUNDS):
        async with peer(machines) as shop:
            theirs += await _confirmations(shop, number // ROUNDS)
        async with malote(machines, "postgresql") as shop:
            ours += await _confirmations(shop, number // ROUNDS)
            waited += await _waits(shop, number // ROUNDS)
    return theirs, ours, waited


async def _confirmations(shop: Shop, number: int) -> list[float]:
    """Seconds from each POST until its order was seen confirmed."""
    sent: dict[UUID, float] = {}
    took: list[float] = []

    def came(answer: Answer) -> None:
        assert answer.status == 202, answer
        sent[UUID(json.loads(answer.body)["order_id"])] = answer.sent

    requests = [request() for _ in range(number)]
    placing = asyncio.create_task(at_a_rate(HOST, shop.port, requests, RATE, came))
    end = time.monotonic() + number / RATE + 60
    async with shop.database.reading() as session:  # each look sees what is committed by then
        while not placing.done() or sent:
            assert time.monotonic() < end, f"{len(sent)} orders are not confirmed"
            await asyncio.sleep(LOOK_SECONDS)
            seen = (await session.scalars(CONFIRMED, {"ids": [*sent]})).all() if sent else []
            took += [time.perf_counter() - sent.pop(id_) for id_ in seen]
    await placing
    return took


async def _waits(shop: Shop, number: int) -> list[float]:
    """Seconds until each client that waits has its answer."""
    answers: list[Answer] = []
    requests = [request(Prefer="wait=20") for _ in range(number)]
    await at_a_rate(HOST, shop.port, requests, RATE, answers.append)
    assert all(json.loads(answer.body)["status"] == "SUCCESS" for answer in answers)
    return [answer.seconds for answer in answers]
