"""A stock service that does as the order says: handlers for tests of the kernel."""

import os
from typing import Any

from sqlalchemy import func, select

from contracts.orders import OrderPlaced
from contracts.stock import StockReserved
from services.stock.store import Reservation
from shared.messaging.handler import Poison, RetryLater, on
from shared.messaging.unit import UnitOfWork
from shared.service import Service
from tests.running import reserved

RESERVED = ("stock", "stock.reserved.v1")


@on(OrderPlaced)
async def on_order_placed(order: OrderPlaced, unit: UnitOfWork) -> StockReserved:
    """Reserve, unless the order's SKU says otherwise."""
    for line in order.lines:
        if line.sku == "FAIL":
            raise RuntimeError("this order always fails")
        if line.sku == "POISON":
            raise Poison("nobody can reserve this")
        if line.sku == "LATER":
            raise RetryLater("come back")
        if line.sku == "KILLER":
            os._exit(1)
    unit.add(Reservation(order_id=order.order_id, state="RESERVED", lines={}))
    return reserved(order.order_id)


async def count(service: Service, table: Any) -> int:
    """How many rows a table has."""
    async with service.database.reading() as session:
        return await session.scalar(select(func.count()).select_from(table)) or 0
