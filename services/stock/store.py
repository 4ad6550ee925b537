"""The stock service's tables and its only SQL."""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, CheckConstraint, Column, String, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from contracts.orders import OrderCancelled, OrderConfirmed, OrderPlaced, OrderRejected
from shared.messaging.inbox import INSERTS
from shared.persistence.clock import now
from shared.persistence.database import load
from shared.persistence.table import TableModel

OrderFact = OrderPlaced | OrderConfirmed | OrderCancelled | OrderRejected


class Base(TableModel, registry=registry()):
    """This service's own metadata."""


class Product(Base, table=True):
    """A product of the catalogue and its level. Constraints of the database refuse negative levels."""

    __tablename__ = "products"
    __table_args__ = (
        CheckConstraint("reserved >= 0", name="reserved_is_not_negative"),
        CheckConstraint("on_hand >= reserved", name="no_more_reserved_than_on_hand"),
    )

    sku: str = Field(primary_key=True, max_length=40)
    name: str
    price: int = Field(sa_type=BigInteger)
    currency: str = Field(max_length=3)
    low_threshold: int
    on_hand: int = 0
    reserved: int = 0
    revision: int = 1


class ReservationState(StrEnum):
    RESERVED = "RESERVED"  # set aside for an order
    TAKEN = "TAKEN"  # the order is confirmed: the pieces have left the level
    RELEASED = "RELEASED"  # for sale again; also if the cancellation arrived before the order
    REFUSED = "REFUSED"  # a product had too few pieces


class Reservation(Base, table=True):
    """What an order did to the levels, and when (epoch milliseconds); `lines` is `{sku: pieces}`.

    Without `reserved_at`, nothing was reserved, or an old version did not store the time.
    """

    __tablename__ = "reservations"

    order_id: UUID = Field(primary_key=True)
    state: ReservationState = Field(sa_type=String(16))
    lines: dict[str, int] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    reserved_at: int | None = Field(default=None, sa_type=BigInteger)
    taken_at: int | None = Field(default=None, sa_type=BigInteger)
    released_at: int | None = Field(default=None, sa_type=BigInteger)

    def held(self) -> dict[str, Any]:
        """The fields that all events about a reservation have."""
        lines = [{"sku": sku, "quantity": pieces} for sku, pieces in self.lines.items()]
        return {"order_id": self.order_id, "lines": lines}


class Adjustment(Base, table=True):
    """A change of a level by hand, at `adjusted_at` (epoch milliseconds). `id` is made from the caller's idempotency
    key, if it gave one."""

    __tablename__ = "adjustments"

    id: UUID = Field(primary_key=True)
    sku: str = Field(max_length=40, index=True)
    delta: int
    reason: str
    adjusted_by: str
    adjusted_at: int = Field(default_factory=now, sa_type=BigInteger)


class PriceChange(Base, table=True):
    """A product's name and price as somebody set them, at `changed_at` (epoch milliseconds)."""

    __tablename__ = "price_changes"

    id: UUID = Field(primary_key=True)
    sku: str = Field(max_length=40)
    revision: int
    name: str
    price: int = Field(sa_type=BigInteger)
    currency: str = Field(max_length=3)
    changed_by: str = Field(max_length=255)
    changed_at: int = Field(default_factory=now, sa_type=BigInteger)


metadata = Base.metadata


async def load_levels(session: AsyncSession, facts: Sequence[OrderFact]) -> Iterable[SQLModel]:
    """The reservations of these orders, and the levels of all that they contain, locked in one order."""
    reservations = await load(session, Reservation, (fact.order_id for fact in facts), lock=True)
    skus = {line.sku for fact in facts if not isinstance(fact, OrderRejected) for line in fact.lines}
    skus |= {sku for reservation in reservations for sku in reservation.lines}
    return [*reservations, *await load(session, Product, skus, lock=True)]


async def claim(session: AsyncSession, wanted: Adjustment) -> Adjustment | None:
    """Insert an adjustment; if one with its id exists, return that one, else None. The insert waits for a transaction
    that inserts the same id: call this before a product is locked, so that no one waits here with a lock."""
    insert = INSERTS[session.get_bind().dialect.name](Adjustment).on_conflict_do_nothing()
    if await session.scalar(insert.values(**wanted.model_dump()).returning(Adjustment.__table__.c.id)) is not None:  # type: ignore[attr-defined]
        return None
    return await session.get_one(Adjustment, wanted.id)


async def product(session: AsyncSession, sku: str, *, lock: bool = False) -> Product | None:
    """One product."""
    return next(iter(await load(session, Product, [sku], lock=lock)), None)


async def claimed(session: AsyncSession, sku: str) -> Product:
    """One product, locked; made if there is none, at revision 0."""
    new = {"sku": sku, "name": "", "price": 0, "currency": "", "low_threshold": 0, "on_hand": 0, "reserved": 0}
    insert = INSERTS[session.get_bind().dialect.name](Product).on_conflict_do_nothing()
    await session.execute(insert.values(**new, revision=0))
    return (await load(session, Product, [sku], lock=True))[0]


async def products(session: AsyncSession, limit: int, after: str | None, before: str | None) -> tuple[list[Any], bool]:
    """A page of the catalogue in order of the SKU, and whether there is more."""
    column: Any = Product.sku
    is_backwards = before and not after
    query = select(Product).order_by(column.desc() if is_backwards else column).limit(limit + 1)
    if after:
        query = query.where(column > after)
    if before:
        query = query.where(column < before)
    rows = list((await session.scalars(query)).all())
    found = rows[:limit]
    return (found[::-1] if is_backwards else found), len(rows) > limit


def reservations() -> Any:
    """The reservations that have the time of at least one change."""
    times: tuple[Any, ...] = (Reservation.reserved_at, Reservation.taken_at, Reservation.released_at)
    return select(Reservation).where(or_(*(at.is_not(None) for at in times)))


def adjustments() -> Any:
    """All changes by hand."""
    return select(Adjustment)


def price_changes() -> Any:
    """All changes of names and prices."""
    return select(PriceChange)
