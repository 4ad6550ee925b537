"""The peer's tables, in one database."""

import os
import time
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, Engine, String, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    type_annotation_map = {dict[str, Any]: JSON, list[dict[str, Any]]: JSON}  # noqa: RUF012 - SQLAlchemy's own form


class Product(Base):
    """A product with its price in minor units and its level."""

    __tablename__ = "products"

    sku: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str]
    price: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(String(3))
    on_hand: Mapped[int]
    reserved: Mapped[int] = mapped_column(default=0)


class Order(Base):
    """An order with its priced lines; times are epoch milliseconds."""

    __tablename__ = "orders"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    job_id: Mapped[UUID]
    customer_id: Mapped[str] = mapped_column(String(64), index=True)
    customer: Mapped[dict[str, Any]]
    lines: Mapped[list[dict[str, Any]]]
    total: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(String(3))
    placed_at: Mapped[int] = mapped_column(BigInteger)
    confirmed_at: Mapped[int | None] = mapped_column(BigInteger)


class Job(Base):
    """What a client asked for, and how far it is."""

    __tablename__ = "jobs"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(String(255), index=True)
    order_id: Mapped[UUID] = mapped_column(index=True)
    status: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[int] = mapped_column(BigInteger)
    ended_at: Mapped[int | None] = mapped_column(BigInteger)


def now() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000


@cache
def engine() -> Engine:
    """This process's engine: made at the first use, so that a worker's children do not share connections."""
    url = os.environ["PEER_DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://")
    return create_engine(url, pool_size=20)
