"""The order as a guarded state machine, and how an order is priced. Pure: no database, no broker.

    PLACED ──► CONFIRMED ──► CANCELLED
       ├─────► REJECTED
       └─────► CANCELLED

A confirmed order can still be cancelled: no step that cannot be undone (a payment, a parcel) follows it yet.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Protocol

from contracts.base import Money
from contracts.orders import OrderLine, PricedLine, RejectedLine, RejectionReason


class State(StrEnum):
    PLACED = "PLACED"
    CONFIRMED = "CONFIRMED"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"


NEXT: dict[State, frozenset[State]] = {
    State.PLACED: frozenset({State.CONFIRMED, State.REJECTED, State.CANCELLED}),
    State.CONFIRMED: frozenset({State.CANCELLED}),
    State.REJECTED: frozenset(),
    State.CANCELLED: frozenset(),
}


def may_become(state: str, wished: State) -> bool:
    """Whether an order in `state` may go on to `wished`. Other messages are late or duplicates."""
    return wished in NEXT[State(state)]


class Price(Protocol):
    """A row of the price list."""

    name: str
    amount: int
    currency: str


class Refused(Exception):
    """An order that cannot be priced."""

    def __init__(self, reason: RejectionReason, lines: Sequence[RejectedLine]) -> None:
        super().__init__(reason)
        self.reason, self.lines = reason, tuple(lines)


def summed(lines: Sequence[OrderLine]) -> dict[str, int]:
    """Pieces by SKU: lines of the same SKU are added up."""
    pieces: Counter[str] = Counter()
    for line in lines:
        pieces[line.sku] += line.quantity
    return dict(pieces)


def price(pieces: Mapping[str, int], currency: str, prices: Mapping[str, Price | None]) -> tuple[PricedLine, ...]:
    """Price an order from the price list. Raises `Refused`: `unknown_sku` before `currency_mismatch`."""
    unknown = [RejectedLine(sku=sku, quantity=number) for sku, number in pieces.items() if prices[sku] is None]
    if unknown:
        raise Refused("unknown_sku", unknown)
    listed = {sku: found for sku in pieces if (found := prices[sku])}
    foreign = [sku for sku, found in listed.items() if found.currency != currency]
    if foreign:
        raise Refused("currency_mismatch", [RejectedLine(sku=sku, quantity=pieces[sku]) for sku in foreign])
    return tuple(
        PricedLine(
            sku=sku,
            name=found.name,
            quantity=pieces[sku],
            unit_price=(unit_price := Money(amount=found.amount, currency=currency)),
            total=unit_price * pieces[sku],
        )
        for sku, found in listed.items()
    )
