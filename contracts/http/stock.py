"""Products, prices and levels over HTTP."""

from typing import Annotated

from pydantic import AfterValidator, Field

from contracts.base import UUID, AwareDatetime, Contract, Integral, IsoCurrency, MinorUnits, Money, Sku, text
from contracts.http.common import ORDER_ID, example
from contracts.stock import ReservedLine

HIGHEST_PRICE = 1_000_000_000
"""In minor units: the largest order at this price (2,000,000 pieces) still has a total that `Money` can say."""


def _not_zero(delta: int) -> int:
    if delta == 0:
        raise ValueError("an adjustment by nothing is none")
    return delta


class Price(Money):
    """What one piece costs."""

    amount: Annotated[int, Field(strict=True, ge=0, le=HIGHEST_PRICE, examples=[6990]), Integral]
    currency: IsoCurrency


class ProductIn(Contract):
    """What a product is called, what it costs, and when to say that it runs low."""

    model_config = example(name="Coffee, 1 kg", price={"amount": 6990, "currency": "BRL"}, low_threshold=10)

    name: Annotated[str, text(200)] = Field(examples=["Coffee, 1 kg"])
    price: Price
    low_threshold: Annotated[
        int,
        Field(strict=True, ge=0, le=1_000_000, description="`StockLow` is said once fewer are available."),
        Integral,
    ] = 10


class AdjustmentIn(Contract):
    """Pieces that came (above zero) or went (below zero) outside of any order."""

    model_config = example(delta=100, reason="delivery 4711")

    delta: Annotated[
        int,
        Field(strict=True, ge=-1_000_000, le=1_000_000, examples=[100], json_schema_extra={"not": {"const": 0}}),
        Integral,
        AfterValidator(_not_zero),
    ]
    reason: Annotated[str, text(200)] = Field(examples=["delivery 4711"])


class ProductView(Contract):
    """A product and its level: `available` is `on_hand` without `reserved`. `revision` counts price changes."""

    sku: Sku
    name: str = Field(examples=["Coffee, 1 kg"])
    price: Money
    low_threshold: int = Field(ge=0, examples=[10])
    on_hand: MinorUnits = Field(examples=[120])
    reserved: MinorUnits = Field(examples=[20])
    available: MinorUnits = Field(examples=[100])
    revision: int = Field(ge=1, examples=[1])


class PriceChangeView(Contract):
    """A product's name or price as somebody set it; the product is at `revision` since."""

    id: UUID
    sku: Sku
    revision: int = Field(ge=1)
    name: str = Field(examples=["Coffee, 1 kg"])
    price: Money
    changed_by: str = Field(examples=["olga"])
    changed_at: AwareDatetime


class ReservationView(Contract):
    """What an order did to the levels, and when. Pieces are reserved, then taken or released; what was taken can be
    released later, when its order is cancelled."""

    order_id: UUID = Field(examples=[ORDER_ID])
    lines: tuple[ReservedLine, ...]
    reserved_at: AwareDatetime | None = None
    taken_at: AwareDatetime | None = None
    released_at: AwareDatetime | None = None


class AdjustmentView(Contract):
    """A change of a level by hand."""

    id: UUID
    sku: Sku
    delta: int = Field(examples=[100])
    reason: str = Field(examples=["delivery 4711"])
    adjusted_by: str
    adjusted_at: AwareDatetime
