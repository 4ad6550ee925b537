"""What there is to write about."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from contracts.base import Locale, Money
from contracts.orders import (
    Customer,
    OrderCancelled,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    PricedLine,
    RejectedLine,
    RejectionReason,
)
from contracts.stock import StockLow

ORDER_ID = UUID("0193a5b2-7c1e-7d2f-9a41-5b6c4f2a91bc")
AT = datetime(2026, 11, 22, 1, 30, tzinfo=UTC)


def money(amount: int, currency: str = "BRL") -> Money:
    return Money(amount=amount, currency=currency)


def customer(name: str = "Ana Souza", locale: Locale = "pt-BR") -> Customer:
    return Customer(id="ana", name=name, email="ana@example.com", locale=locale)


def sold(
    name: str = "Café em grãos 1 kg", who: Customer | None = None, price: Money | None = None
) -> dict[str, object]:
    """What every event about a priced order says: 1,250 pieces of one product."""
    price = price or money(6990)
    line = PricedLine(sku="COFFEE-1KG", name=name, quantity=1250, unit_price=price, total=price * 1250)
    return {"order_id": ORDER_ID, "customer": who or customer(), "lines": (line,), "total": price * 1250}


def placed(**about: Any) -> OrderPlaced:
    return OrderPlaced.model_validate(sold(**about) | {"placed_at": AT})


def confirmed(**about: Any) -> OrderConfirmed:
    return OrderConfirmed.model_validate(sold(**about) | {"confirmed_at": AT})


def cancelled(**about: Any) -> OrderCancelled:
    return OrderCancelled.model_validate(sold(**about) | {"cancelled_at": AT, "order_job_id": "job"})


def rejected(reason: RejectionReason, *lines: RejectedLine, who: Customer | None = None) -> OrderRejected:
    return OrderRejected(
        order_id=ORDER_ID, customer=who or customer(), reason=reason, rejected_lines=lines, rejected_at=AT
    )


def low(name: str = "Caneca rara", available: int = 2) -> StockLow:
    return StockLow(sku="MUG-RARE", name=name, available=available, threshold=10)
