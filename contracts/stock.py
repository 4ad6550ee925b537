"""What the stock service owns: the catalogue with its prices, and what happens to levels."""

from typing import Annotated, ClassVar

from pydantic import Field

from contracts.base import UUID, AwareDatetime, Contract, Event, Money, Sku, text
from contracts.orders import RejectedLine, SummedQuantity


class ReservedLine(Contract):
    sku: Sku
    quantity: SummedQuantity


class StockReserved(Event):
    """All lines of an order are set aside."""

    exchange: ClassVar[str] = "stock"
    key: ClassVar[str] = "stock.reserved.v1"

    order_id: UUID


class StockRejected(Event):
    """Nothing was set aside for an order: `rejected_lines` are the lines for which there is too little."""

    exchange: ClassVar[str] = "stock"
    key: ClassVar[str] = "stock.rejected.v1"

    order_id: UUID
    rejected_lines: tuple[RejectedLine, ...]


class StockReleased(Event):
    """What was set aside for an order is for sale again."""

    exchange: ClassVar[str] = "stock"
    key: ClassVar[str] = "stock.released.v1"

    order_id: UUID
    lines: tuple[ReservedLine, ...]


class StockLow(Event):
    """A product's available pieces fell below its threshold. Said once per fall, not per piece."""

    exchange: ClassVar[str] = "stock"
    key: ClassVar[str] = "stock.low.v1"

    sku: Sku
    name: Annotated[str, text(200)]
    available: int = Field(ge=0)
    threshold: int = Field(ge=0)


class ProductPriced(Event):
    """A product's name or price was set. A lower `revision` than one already seen is out of date."""

    exchange: ClassVar[str] = "stock"
    key: ClassVar[str] = "product.priced.v1"

    sku: Sku
    name: Annotated[str, text(200)]
    price: Money
    revision: int = Field(ge=1)
    priced_at: AwareDatetime
