"""The messages of the stock service: prices of the catalogue, and changes of levels."""

from typing import Annotated, ClassVar

from pydantic import Field

from contracts.base import UUID, AwareDatetime, Contract, Event, Money, Sku, text
from contracts.orders import RejectedLine, SummedQuantity


class ReservedLine(Contract):
    sku: Sku
    quantity: SummedQuantity


class StockReserved(Event):
    """All lines of an order are reserved."""

    exchange: ClassVar[str] = "stock"
    key: ClassVar[str] = "stock.reserved.v1"

    order_id: UUID
    lines: tuple[ReservedLine, ...]
    reserved_at: AwareDatetime


class StockRejected(Event):
    """Nothing was reserved for an order. `rejected_lines` are the lines with too few available pieces."""

    exchange: ClassVar[str] = "stock"
    key: ClassVar[str] = "stock.rejected.v1"

    order_id: UUID
    rejected_lines: tuple[RejectedLine, ...]


class StockTaken(Event):
    """The reserved pieces of an order have left the warehouse: they are neither reserved nor on hand any more."""

    exchange: ClassVar[str] = "stock"
    key: ClassVar[str] = "stock.taken.v1"

    order_id: UUID
    lines: tuple[ReservedLine, ...]
    taken_at: AwareDatetime


class StockReleased(Event):
    """The pieces of an order are for sale again. `was_taken`: they had left the warehouse, and are on hand again."""

    exchange: ClassVar[str] = "stock"
    key: ClassVar[str] = "stock.released.v1"

    order_id: UUID
    lines: tuple[ReservedLine, ...]
    was_taken: bool
    released_at: AwareDatetime


class StockAdjusted(Event):
    """Pieces came (above zero) or went (below zero) outside of any order."""

    exchange: ClassVar[str] = "stock"
    key: ClassVar[str] = "stock.adjusted.v1"

    adjustment_id: UUID
    sku: Sku
    delta: int = Field(ge=-1_000_000, le=1_000_000, examples=[-2])
    reason: Annotated[str, text(200)] = Field(examples=["broken on the way"])
    adjusted_by: Annotated[str, text(255)] = Field(examples=["olga"])
    adjusted_at: AwareDatetime


class StockLow(Event):
    """A product's available pieces fell below its threshold. Sent once for each fall, not for each piece."""

    exchange: ClassVar[str] = "stock"
    key: ClassVar[str] = "stock.low.v1"

    sku: Sku
    name: Annotated[str, text(200)] = Field(examples=["Coffee, 1 kg"])
    available: int = Field(ge=0, examples=[3])
    threshold: int = Field(ge=0, examples=[5])


class ProductPriced(Event):
    """A product's name or price was set. An event with a lower `revision` than a known one is outdated."""

    exchange: ClassVar[str] = "stock"
    key: ClassVar[str] = "product.priced.v1"

    sku: Sku
    name: Annotated[str, text(200)] = Field(examples=["Coffee, 1 kg"])
    price: Money
    revision: int = Field(ge=1)
    priced_at: AwareDatetime
    priced_by: Annotated[str, text(255)] | None = Field(default=None, examples=["olga"])
