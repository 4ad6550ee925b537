"""A stock that fails as long as it is told to, and whoever deals with its dead letters."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from contracts.orders import OrderPlaced
from contracts.stock import StockReserved
from services.stock.store import Reservation
from shared.messaging.handler import Poison, on
from shared.messaging.unit import UnitOfWork
from shared.service import Service
from tests.integration.reserving import count
from tests.running import Broker, an_order, module_of, reserved, running, until
from tests.serving import serving

Letter = dict[str, Any]
Job = dict[str, Any]


class Stock:
    """Reserves what is asked for, but for the products that are broken."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.calls = 0

        @on(OrderPlaced)
        async def on_order_placed(order: OrderPlaced, unit: UnitOfWork) -> StockReserved:
            self.calls += 1
            if bad := self.broken & {line.sku for line in order.lines}:
                raise Poison(f"nobody can reserve {min(bad)} for order {order.order_id}")
            unit.add(Reservation(order_id=order.order_id, state="RESERVED", lines={}))
            return reserved(order.order_id)

        self.handlers = module_of(on_order_placed)


class Shop:
    """That stock, and an operator at the gateway."""

    def __init__(self, broker: Broker, operator: httpx.AsyncClient, stock: Stock, service: Service) -> None:
        self.broker, self.operator, self.stock, self._service = broker, operator, stock, service

    async def fails(self, *skus: str) -> list[Letter]:
        """Orders of these products are placed and fail; the letters that wait then, oldest first."""
        self.stock.broken |= set(skus)
        for sku in skus:
            await self.broker.publish(an_order([(sku, 1)]))
        return await self.waiting(len(skus))

    async def waiting(self, number: int) -> list[Letter]:
        """The letters that wait, oldest first, once there are so many."""

        async def look() -> tuple[list[Letter]] | None:
            found = (await self.ask(state="WAITING", limit=100))["data"]
            return (found[::-1],) if len(found) == number else None

        return (await until(look, f"{number} letters that wait"))[0]

    async def ask(self, path: str = "", **params: Any) -> dict[str, Any]:
        """Look at something."""
        answer = await self.operator.get(f"/v1/dead-letters{path}", params=params)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def do(self, path: str, **wish: Any) -> Job:
        """Wish for something; the job as it ended."""
        answer = await self.operator.post(f"/v1/dead-letters/{path}", json=wish, headers={"Prefer": "wait=25"})
        assert answer.status_code == 200, answer.text
        job: Job = answer.json()
        return job

    async def reservations(self) -> int:
        """How often stock has had its effect."""
        return await count(self._service, Reservation)


@contextlib.asynccontextmanager
async def shop_on(broker: Broker, database_url: str, folder: Path) -> AsyncIterator[Shop]:
    """All of it, with deadletters on that database."""
    stock = Stock()
    async with (
        running("stock", broker.url, f"sqlite:///{folder}/stock.db", stock.handlers) as service,
        serving("deadletters", broker.url, database_url) as letters,
        serving("gateway", broker.url, f"sqlite:///{folder}/gateway.db", deadletters_url=letters.url) as gateway,
        gateway.client("olga", "operator") as operator,
    ):
        yield Shop(broker, operator, stock, service)
