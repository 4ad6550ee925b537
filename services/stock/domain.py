"""Which orders can be reserved, and what a level means. Pure: no database, no broker."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from contracts.orders import PricedLine, RejectedLine
from contracts.stock import StockLow

MOST_ON_HAND = 2_000_000_000
"""The most pieces that the database's integer holds."""


class Level(Protocol):
    """A product's pieces: `on_hand` are in the warehouse, and `reserved` of these are promised to orders."""

    sku: str
    name: str
    on_hand: int
    reserved: int
    low_threshold: int


def available(level: Level) -> int:
    """The pieces that can still be reserved."""
    return level.on_hand - level.reserved


def shortages(lines: Sequence[PricedLine], levels: Mapping[str, Level | None]) -> tuple[RejectedLine, ...]:
    """The lines of an order that exceed the available pieces; empty if the whole order can be reserved."""
    left = {line.sku: available(level) if (level := levels[line.sku]) else None for line in lines}
    return tuple(
        RejectedLine(sku=line.sku, quantity=line.quantity, available=left[line.sku])
        for line in lines
        if (left[line.sku] or 0) < line.quantity
    )


class Impossible(ValueError):
    """A level is impossible; the text says why."""


def adjusted(level: Level, delta: int) -> int:
    """Pieces on hand after an adjustment. Raises `Impossible` below what is promised or above what can be counted."""
    after = level.on_hand + delta
    if after < level.reserved:
        raise Impossible(f"{level.sku} has {available(level)} available: {-delta} cannot be taken")
    if after > MOST_ON_HAND:
        raise Impossible(f"{level.sku} can have at most {MOST_ON_HAND} on hand")
    return after


def low(level: Level, before: int) -> StockLow | None:
    """The warning due when a change took the available pieces from `before` to below the threshold."""
    now = available(level)
    if now < level.low_threshold <= before:
        return StockLow(sku=level.sku, name=level.name, available=now, threshold=level.low_threshold)
    return None
