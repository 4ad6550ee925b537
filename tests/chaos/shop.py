"""A shop that goes on whatever breaks: it places, cancels and delivers, and keeps what it was promised."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import Any

import aio_pika
import httpx
from uuid_utils.compat import uuid7

from contracts.orders import PlaceOrder
from shared.messaging.publisher import gone_is_outage
from shared.persistence.database import Outage
from tests.integration.hostile import publish_raw, short
from tests.serving import token

PLENTY = [f"PLENTY-{n}" for n in range(4)]
SCARCE = [f"SCARCE-{n}" for n in range(2)]
UNKNOWN = "NOBODY-SELLS-THIS"
FIRST_LEVEL = dict.fromkeys(PLENTY, 100_000) | dict.fromkeys(SCARCE, 40)
REPRICED = PLENTY[3]
"""The product whose price changes."""
FIRST_PRICE = 1000
TRY_AGAIN_SECONDS = 0.5
PATIENCE_SECONDS = 12.0
DOUBT_SECONDS = 8.0


@dataclass
class Wish:
    """An order as the shop knows it. `customer` is its own, so that every trace of it can be counted."""

    customer: str
    lines: list[tuple[str, int]]
    job_id: str | None = None
    """Of the order, if it was placed by HTTP and accepted."""
    order_id: str | None = None
    """The same."""
    is_accepted: bool = False
    cancel_jobs: list[str] = field(default_factory=list)

    def body(self) -> dict[str, Any]:
        email = f"{self.customer}@example.com"
        customer = {"id": self.customer, "name": "Ana", "email": email, "locale": "en"}
        lines = [{"sku": sku, "quantity": quantity} for sku, quantity in self.lines]
        return {"customer": customer, "currency": "BRL", "lines": lines}


class Shop:
    """Its load goes on inside `open()`. What it was promised is in `wishes` and `delivered`."""

    def __init__(self, gateway_url: str, amqp_url: str, seed: object, *, orders_a_second: float) -> None:
        self.wishes: list[Wish] = []
        self.delivered = dict.fromkeys(FIRST_LEVEL, 0)
        """Pieces that adjustments added, as far as they were answered."""
        self.prices = {sku: [FIRST_PRICE] for sku in FIRST_LEVEL}
        """In centavos, in the order in which they were set; the last one was answered, or is being set."""
        self.surprises: list[str] = []
        """What no client should ever see."""
        self._customers_random = random.Random(f"{seed} customers")
        self._warehouse_random = random.Random(f"{seed} warehouse")
        self._pricing_random = random.Random(f"{seed} pricing")
        self._amqp_url, self._rate = amqp_url, orders_a_second
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_open = asyncio.Event()
        self._is_open.set()
        login = {"Authorization": f"Bearer {token('olga', 'operator', ttl=7 * 86_400)}"}
        self.http = httpx.AsyncClient(base_url=gateway_url, headers=login, timeout=PATIENCE_SECONDS, trust_env=False)
        self._connecting = asyncio.Lock()
        self._connection: aio_pika.abc.AbstractConnection | None = None
        self._to_broker: aio_pika.abc.AbstractChannel | None = None

    async def stock_up(self) -> None:
        """Make the products, and bring the first pieces."""
        for sku, pieces in FIRST_LEVEL.items():
            await self._price(sku, FIRST_PRICE)
            await self._deliver(sku, pieces)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["Shop"]:
        """Customers come; at the end of the block, no more of them, and all that were there are served."""
        busy = [asyncio.create_task(work()) for work in (self._customers, self._deliveries, self._pricing)]
        try:
            yield self
        finally:
            for task in busy:
                task.cancel()
            await asyncio.gather(*busy, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Nobody comes, and all that were there are served; they come again after the block."""
        self._is_open.clear()
        try:
            await asyncio.gather(*self._tasks)
            yield
        finally:
            self._is_open.set()

    async def served(self, seconds: float) -> list[str]:
        """Wait for those who still try; what is wrong if they must wait for longer than that."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            for task in late:
                task.cancel()
            if late:
                return [f"{len(late)} requests were not accepted within {seconds:g} s of calm"]
        return []

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.http.aclose()
        if self._connection:
            with contextlib.suppress(Exception):
                await self._connection.close()

    async def probe(self) -> Wish:
        """Place an order and wait until it is confirmed, however often one has to ask."""
        wish = self._wish([(PLENTY[0], 1)])
        await self._place(wish)
        while True:
            with contextlib.suppress(httpx.HTTPError):
                answer = await self.http.post(f"/v1/jobs/{wish.job_id}/wait", params={"timeout": 5})
                if answer.status_code == 200:
                    self.surprises += [] if answer.json()["status"] == "SUCCESS" else [f"a probe: {answer.text}"]
                    return wish
            await asyncio.sleep(0.1)

    # -- customers ----------------------------------------------------------------------------------------------

    async def _customers(self) -> None:
        chance = self._customers_random
        while await self._is_open.wait():
            wish = self._wish(self._lines(chance))
            if chance.random() < 0.4:
                self._start(self._send(wish, has_id=chance.random() < 0.5))
            else:
                regret = chance.choice([0, chance.uniform(0, 3)]) if chance.random() < 0.2 else None
                self._start(self._ask_for(wish, regret, doubts=chance.random() < 0.2))
            await asyncio.sleep(chance.expovariate(self._rate))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _wish(self, lines: list[tuple[str, int]]) -> Wish:
        wish = Wish(f"c{next(self._numbers):05}", lines)
        self.wishes.append(wish)
        return wish

    @staticmethod
    def _lines(chance: random.Random) -> list[tuple[str, int]]:
        lines = [(sku, chance.randint(1, 3)) for sku in chance.sample(PLENTY, chance.randint(1, 3))]
        kind = chance.random()
        if kind < 0.2:
            lines.append((chance.choice(SCARCE), chance.randint(1, 4)))
        elif kind < 0.25:
            lines.append((UNKNOWN, 1))
        return lines

    async def _ask_for(self, wish: Wish, regret: float | None, *, doubts: bool) -> None:
        """Place an order by HTTP, and regret it so many seconds later, perhaps twice at a time. Who doubts asks again
        later, under the same key, and must get the same answer."""
        await self._place(wish)
        if regret is not None:
            await asyncio.sleep(regret)
            cancelling = [self._cancel(wish, number) for number in range(2 if doubts else 1)]
            await asyncio.gather(*cancelling)
        elif doubts:
            await asyncio.sleep(DOUBT_SECONDS)
            job_id = wish.job_id
            await self._place(wish)
            if wish.job_id != job_id:
                self.surprises.append(f"one key, two orders: the jobs {job_id} and {wish.job_id} of {wish.customer}")

    async def _place(self, wish: Wish) -> None:
        answer = await self.insist("POST", "/v1/orders", wish.body(), key=wish.customer, good=(202,))
        wish.job_id, wish.order_id, wish.is_accepted = answer["job_id"], answer["order_id"], True

    async def _cancel(self, wish: Wish, number: int) -> None:
        key = f"{wish.customer} no {number}"
        answer = await self.insist("POST", f"/v1/jobs/{wish.job_id}/cancel", key=key, good=(202, 409))
        if "job_id" in answer:  # there is none if the order had ended
            wish.cancel_jobs.append(answer["job_id"])

    async def _send(self, wish: Wish, *, has_id: bool) -> None:
        """Straight to the broker, under one id until it is confirmed; without one, it is known by its `order_id`."""
        command = PlaceOrder.model_validate({**wish.body(), "order_id": str(uuid7())})
        own = {"delivery_mode": b"\2"}  # put there byte by byte, or aiormq would make up an id each time
        own |= {"message_id": short(str(uuid7()).encode())} if has_id else {}
        body = command.model_dump_json().encode()
        while True:
            with contextlib.suppress(Outage), gone_is_outage("the broker is gone"):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await publish_raw(await self._channel(), body, "commands", PlaceOrder.key, **own)
                wish.is_accepted = True
                return
            await asyncio.sleep(TRY_AGAIN_SECONDS)

    async def _channel(self) -> aio_pika.abc.AbstractChannel:
        async with self._connecting:
            if self._to_broker is None or self._to_broker.is_closed:
                if self._connection:
                    await self._connection.close()
                self._connection = await aio_pika.connect(self._amqp_url, timeout=5)
                self._to_broker = await self._connection.channel()
            return self._to_broker

    # -- the warehouse ------------------------------------------------------------------------------------------

    async def _deliveries(self) -> None:
        chance = self._warehouse_random
        while True:
            await asyncio.sleep(chance.uniform(1, 3))
            await self._is_open.wait()
            self._start(self._deliver(chance.choice(SCARCE), chance.randint(1, 5)))

    async def _deliver(self, sku: str, pieces: int) -> None:
        body = {"delta": pieces, "reason": "delivery"}
        await self.insist("POST", f"/v1/products/{sku}/adjustments", body, key=str(uuid7()))
        self.delivered[sku] += pieces

    async def _pricing(self) -> None:
        """One price after the other: nobody asks for two at a time."""
        chance = self._pricing_random
        while True:
            await asyncio.sleep(chance.uniform(2, 5))
            await self._is_open.wait()
            self.prices[REPRICED].append(self.prices[REPRICED][-1] + chance.randint(1, 50))
            repricing = asyncio.create_task(self._price(REPRICED, self.prices[REPRICED][-1]))
            self._tasks.add(repricing)
            repricing.add_done_callback(self._tasks.discard)
            await asyncio.shield(repricing)

    async def _price(self, sku: str, amount: int) -> None:
        body = {"name": sku, "price": {"amount": amount, "currency": "BRL"}, "low_threshold": 0}
        await self.insist("PUT", f"/v1/products/{sku}", body)

    # -- insisting ----------------------------------------------------------------------------------------------

    async def insist(
        self, method: str, path: str, body: object = None, *, key: str | None = None, good: tuple[int, ...] = (200, 201)
    ) -> dict[str, Any]:
        """Ask again and again, under one key, until the answer is one of `good`; an answer that no outage explains is
        a surprise, and asked about again all the same."""
        headers = {"Idempotency-Key": key} if key else {}
        while True:
            with contextlib.suppress(httpx.HTTPError):
                answer = await self.http.request(method, path, json=body, headers=headers)
                if answer.status_code in good:
                    found: dict[str, Any] = answer.json()
                    return found
                if answer.status_code not in (401, 429) and answer.status_code < 500:  # 401: clocks differ
                    self.surprises.append(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
                if answer.status_code == 500:
                    self.surprises.append(f"{method} {path}: {answer.text[:300]}")
            await asyncio.sleep(TRY_AGAIN_SECONDS)
