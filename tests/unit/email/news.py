"""What there is to write about."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from contracts.base import Locale, Money
from contracts.email import DigestGroup, MailDigest, MailReport
from contracts.orders import (
    Customer,
    OrderCancelled,
    OrderConfirmed,
    OrderedLine,
    OrderPlaced,
    OrderRejected,
    PricedLine,
    RejectedLine,
    RejectionReason,
)
from contracts.stock import StockLow

ORDER_ID = UUID("0193a5b2-7c1e-7d2f-9a41-5b6c4f2a91bc")
AT = datetime(2026, 11, 22, 1, 30, tzinfo=UTC)
LINK = f"https://malote.example/v1/reports/{ORDER_ID}/download?expires=1795311000&signature=0f"


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
    total = price * 1250
    return {"order_id": ORDER_ID, "customer": who or customer(), "lines": (line,), "total": total, "placed_at": AT}


def placed(**about: Any) -> OrderPlaced:
    return OrderPlaced.model_validate(sold(**about))


def confirmed(**about: Any) -> OrderConfirmed:
    return OrderConfirmed.model_validate(sold(**about) | {"confirmed_at": AT})


def cancelled(**about: Any) -> OrderCancelled:
    return OrderCancelled.model_validate(sold(**about) | {"cancelled_at": AT, "order_job_id": "job"})


def rejected(reason: RejectionReason, *lines: RejectedLine, who: Customer | None = None) -> OrderRejected:
    return OrderRejected(
        order_id=ORDER_ID,
        customer=who or customer(),
        currency="BRL",
        lines=tuple(OrderedLine(sku=line.sku, quantity=line.quantity) for line in lines),
        total=None,
        reason=reason,
        rejected_lines=lines,
        placed_at=AT,
        rejected_at=AT,
    )


def low(name: str = "Caneca rara", available: int = 2) -> StockLow:
    return StockLow(sku="MUG-RARE", name=name, available=available, threshold=10)


def digest(new: int = 3, reason: str = "RuntimeError: no price for <n>", more_groups: int = 0) -> MailDigest:
    group = DigestGroup(id="0f1e2d3c4b5a", lane="stock", message="order.placed.v1", reason=reason, count=new)
    return MailDigest(new=new, since=AT, waiting=1250, groups=(group,), more_groups=more_groups)


def report(**about: Any) -> MailReport:
    """A report of 1,250 rows that is ready; with a `reason`, one that is not to be had."""
    known = {"report_id": ORDER_ID, "recipient": "ana@example.com", "locale": "pt-BR", "kind": "orders"}
    ends = {"rows": 1250, "bytes": 1_234_567, "link": LINK, "expires_at": AT}
    return MailReport.model_validate(known | {"format": "csv"} | (about if "reason" in about else ends | about))
