"""The read model: what the events of orders and stock said, each fact with its revision."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from sqlalchemy import BigInteger, delete, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Field, SQLModel

from contracts.base import Money
from contracts.http.orders import OrderView
from contracts.orders import OrderRejected
from contracts.reports import RebuildReadModel
from services.reports import domain
from services.reports.domain import OrderFact, Projected, StockFact
from services.reports.store.base import Base
from shared.persistence.database import load


class ReadModel(Base, table=True):
    """One row, which every transaction that changes the read model locks.

    `emptied_at` and `filled_at` are the revisions at which the last rebuild began and ended. Between the two, the read
    model is incomplete.
    """

    __tablename__ = "read_model"

    id: int = Field(default=1, primary_key=True)
    revision: int = Field(default=0, sa_type=BigInteger)
    emptied_at: int = Field(default=0, sa_type=BigInteger)
    filled_at: int = Field(default=0, sa_type=BigInteger)


class Order(Base, table=True):
    """An order. Times are epoch milliseconds. `amount` is `total` in major units as text (`69.90`).

    `revision` is the revision of the order and of all its columns that never change. Each later fact (confirmed,
    rejected, cancelled) has a revision of its own.
    """

    __tablename__ = "orders"

    id: UUID = Field(primary_key=True)
    revision: int = Field(sa_type=BigInteger)
    placed_at: int = Field(sa_type=BigInteger)
    customer_id: str = Field(max_length=64)
    customer_name: str
    customer_email: str
    currency: str = Field(max_length=3)
    total: int | None = Field(default=None, sa_type=BigInteger)
    amount: str | None = None
    lines: int
    pieces: int
    reason: str | None = None
    confirmed_at: int | None = Field(default=None, sa_type=BigInteger)
    confirmed_revision: int | None = Field(default=None, sa_type=BigInteger)
    rejected_at: int | None = Field(default=None, sa_type=BigInteger)
    rejected_revision: int | None = Field(default=None, sa_type=BigInteger)
    cancelled_at: int | None = Field(default=None, sa_type=BigInteger)
    cancelled_revision: int | None = Field(default=None, sa_type=BigInteger)


class Line(Base, table=True):
    """A line of an order. `revision` and `placed_at` are copies of the order's: an export sorts and filters by them.

    `price` and `amount` are `unit_price` and `total` in major units as text.
    """

    __tablename__ = "order_lines"

    order_id: UUID = Field(primary_key=True)
    sku: str = Field(primary_key=True, max_length=40)
    revision: int = Field(sa_type=BigInteger)
    placed_at: int = Field(sa_type=BigInteger)
    name: str | None = None
    quantity: int
    unit_price: int | None = Field(default=None, sa_type=BigInteger)
    price: str | None = None
    total: int | None = Field(default=None, sa_type=BigInteger)
    amount: str | None = None


class Movement(Base, table=True):
    """A change of a product's level: `on_hand` and `reserved` are the numbers of pieces by which the level changed.

    `kind` is reserved, taken, released or adjusted. A row never changes. `id` is derived from the fact, so the same
    fact is stored once.
    """

    __tablename__ = "stock_movements"

    id: str = Field(primary_key=True, max_length=96)
    revision: int = Field(sa_type=BigInteger)
    moved_at: int = Field(sa_type=BigInteger)
    sku: str = Field(max_length=40)
    kind: str = Field(max_length=16)
    on_hand: int
    reserved: int
    order_id: UUID | None = None
    reason: str | None = None
    adjusted_by: str | None = None


async def load_read_model(session: AsyncSession, *, lock: bool = False) -> ReadModel:
    """The read model's one row."""
    return (await load(session, ReadModel, [1], lock=lock))[0]


async def load_projected(session: AsyncSession, messages: Sequence[Projected]) -> Iterable[SQLModel]:
    """The read model, locked and at its next revision, and the orders and movements that the messages are about.

    A rebuild empties the read model here, before the batch is projected: the other messages of the batch are kept.
    """
    model = await load_read_model(session, lock=True)
    model.revision += 1
    if any(isinstance(message, RebuildReadModel) for message in messages):
        await _empty(session)
        model.emptied_at = model.revision
    facts = [fact for message in messages for fact in domain.facts(message)]
    orders = {domain.order_id(fact) for fact in facts if isinstance(fact, OrderFact)}
    movements = {id_ for fact in facts if isinstance(fact, StockFact) for id_ in domain.movements(fact)}
    return [model, *await load(session, Order, orders), *await load(session, Movement, movements)]


async def _empty(session: AsyncSession) -> None:
    """Delete all facts. PostgreSQL's TRUNCATE takes the same short time for any number of rows, but a transaction that
    began to read before it sees the empty tables too: an export therefore checks `emptied_at` after it has read."""
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(text("TRUNCATE orders, order_lines, stock_movements"))
        return
    for table in (Order, Line, Movement):
        await session.execute(delete(table), execution_options={"synchronize_session": False})


def new_order(fact: OrderFact, revision: int) -> tuple[Order, list[Line]]:
    """An order and its lines, with the columns that never change: every fact about an order carries them."""
    order = Order(
        id=domain.order_id(fact),
        revision=revision,
        placed_at=domain.milliseconds(fact.placed_at),
        customer_id=fact.customer.id,
        customer_name=fact.customer.name,
        customer_email=fact.customer.email,
        currency=fact.currency if isinstance(fact, OrderRejected | OrderView) else fact.total.currency,
        total=fact.total.amount if fact.total else None,
        amount=_major(fact.total),
        lines=len(fact.lines),
        pieces=sum(line.quantity for line in fact.lines),
    )
    return order, [
        Line(
            order_id=order.id,
            sku=line.sku,
            revision=revision,
            placed_at=order.placed_at,
            name=line.name,
            quantity=line.quantity,
            unit_price=line.unit_price.amount if line.unit_price else None,
            price=_major(line.unit_price),
            total=line.total.amount if line.total else None,
            amount=_major(line.total),
        )
        for line in fact.lines
    ]


def _major(money: Money | None) -> str | None:
    return None if money is None else domain.major(money.amount, money.currency)
