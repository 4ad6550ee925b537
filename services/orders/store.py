"""The orders service's tables and its only SQL."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, Column, String, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from contracts.orders import CancelOrder, PlaceOrder
from contracts.stock import ProductPriced, StockRejected, StockReserved
from shared.persistence.clock import moment, now
from shared.persistence.database import load
from shared.persistence.table import TableModel

OrderMessage = CancelOrder | StockReserved | StockRejected


class Base(TableModel, registry=registry()):
    """This service's own metadata."""


class Order(Base, table=True):
    """An order. `customer`, `lines` and `rejected_lines` are the contracts' own JSON; times are epoch milliseconds.

    `lines` are priced if there is a `total`; else they are as the customer ordered them.
    """

    __tablename__ = "orders"

    id: UUID = Field(primary_key=True)
    state: str = Field(sa_type=String(16))
    job_id: str
    customer_id: str = Field(max_length=64)
    customer: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    currency: str = Field(max_length=3)
    lines: list[dict[str, Any]] = Field(sa_column=Column(JSON, nullable=False))
    total: int | None = Field(default=None, sa_type=BigInteger)
    reason: str | None = None
    rejected_lines: list[dict[str, Any]] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    placed_at: int = Field(sa_type=BigInteger)
    confirmed_at: int | None = Field(default=None, sa_type=BigInteger)
    rejected_at: int | None = Field(default=None, sa_type=BigInteger)
    cancelled_at: int | None = Field(default=None, sa_type=BigInteger)

    def sold(self) -> dict[str, Any]:
        """The fields that all events about a priced order have."""
        total = {"amount": self.total, "currency": self.currency}
        placed_at = moment(self.placed_at)
        return {
            "order_id": self.id,
            "customer": self.customer,
            "lines": self.lines,
            "total": total,
            "placed_at": placed_at,
        }


class ListPrice(Base, table=True):
    """The price list: the latest name and price of each product, from stock's events."""

    __tablename__ = "prices"

    sku: str = Field(primary_key=True, max_length=40)
    name: str
    amount: int = Field(sa_type=BigInteger)
    currency: str = Field(max_length=3)
    revision: int


metadata = Base.metadata


def new_order(command: PlaceOrder, pieces: dict[str, int], *, job_id: str) -> Order:
    """A placed order that is not priced yet."""
    return Order(
        id=command.order_id,
        state="PLACED",
        job_id=job_id,
        customer_id=command.customer.id,
        customer=command.customer.model_dump(),
        currency=command.currency,
        lines=[{"sku": sku, "quantity": quantity} for sku, quantity in pieces.items()],
        placed_at=now(),
    )


async def load_for_placing(session: AsyncSession, commands: Sequence[PlaceOrder]) -> Iterable[SQLModel]:
    """The orders that exist already, and the prices of the ordered products."""
    known = await load(session, Order, (command.order_id for command in commands))
    return [*known, *await load(session, ListPrice, {line.sku for command in commands for line in command.lines})]


async def load_orders(session: AsyncSession, messages: Sequence[OrderMessage]) -> Iterable[SQLModel]:
    """The orders that messages are about."""
    return await load(session, Order, (message.order_id for message in messages), lock=True)


async def load_prices(session: AsyncSession, events: Sequence[ProductPriced]) -> Iterable[SQLModel]:
    """The price list's rows for some products."""
    return await load(session, ListPrice, (event.sku for event in events), lock=True)


async def order(session: AsyncSession, order_id: UUID) -> Order | None:
    """One order."""
    return next(iter(await load(session, Order, [order_id])), None)


def orders(customer_id: str | None, state: str | None) -> Any:
    """The orders, of one customer or of all, in one state or in any."""
    query: Any = select(Order)
    if customer_id is not None:
        query = query.where(Order.customer_id == customer_id)
    return query.where(Order.state == state) if state else query


def placed_at(customer_id: str | None, order_id: UUID) -> Any:
    """A query for the time at which an order was placed; no row for the order of another customer."""
    return orders(customer_id, None).where(Order.id == order_id).with_only_columns(Order.placed_at).scalar_subquery()


async def price_list(session: AsyncSession) -> Sequence[ListPrice]:
    """All prices, in order of the SKU."""
    column: Any = ListPrice.sku
    return (await session.scalars(select(ListPrice).order_by(column))).all()
