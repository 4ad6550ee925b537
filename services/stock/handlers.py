"""What stock does when something happens to an order."""

from contracts.orders import OrderCancelled, OrderConfirmed, OrderPlaced, OrderRejected
from contracts.stock import ReservedLine, StockLow, StockRejected, StockReleased, StockReserved
from services.stock import domain
from services.stock.store import Product, Reservation, ReservationState, touched
from shared.handler import on
from shared.unit import Unit, UnitOfWork


@on(OrderPlaced, loads=touched)
async def on_order_placed(order: OrderPlaced, unit: Unit) -> StockRejected | list[StockReserved | StockLow] | None:
    """Reserve all lines or none."""
    if unit.get(Reservation, order.order_id):
        return None  # done before, or cancelled before it came
    levels = {line.sku: unit.get(Product, line.sku) for line in order.lines}
    if missing := domain.shortages(order.lines, levels):
        unit.add(Reservation(order_id=order.order_id, state=ReservationState.REFUSED))
        return StockRejected(order_id=order.order_id, rejected_lines=missing)
    lines = {line.sku: line.quantity for line in order.lines}
    unit.add(Reservation(order_id=order.order_id, state=ReservationState.RESERVED, lines=lines))
    return [StockReserved(order_id=order.order_id), *_reserve(lines, unit)]


@on(OrderConfirmed, loads=touched)
async def on_order_confirmed(order: OrderConfirmed, unit: Unit) -> None:
    """What was set aside leaves the level."""
    reservation = unit.get(Reservation, order.order_id)
    if reservation is None or reservation.state != ReservationState.RESERVED:
        return
    reservation.state = ReservationState.TAKEN
    for level, pieces in _levels(reservation, unit):
        level.on_hand -= pieces
        level.reserved -= pieces


@on(OrderCancelled, OrderRejected, loads=touched)
async def on_order_ended(order: OrderCancelled | OrderRejected, unit: Unit) -> StockReleased | None:
    """Give back what the order holds, and remember that it is over in case its beginning comes later."""
    reservation = unit.get(Reservation, order.order_id)
    if reservation is None:
        unit.add(Reservation(order_id=order.order_id, state=ReservationState.RELEASED))
        return None
    if reservation.state not in (ReservationState.RESERVED, ReservationState.TAKEN):
        return None
    for level, pieces in _levels(reservation, unit):
        if reservation.state == ReservationState.RESERVED:
            level.reserved -= pieces
        else:
            level.on_hand += pieces
    reservation.state = ReservationState.RELEASED
    lines = tuple(ReservedLine(sku=sku, quantity=pieces) for sku, pieces in reservation.lines.items())
    return StockReleased(order_id=order.order_id, lines=lines)


def _reserve(lines: dict[str, int], unit: UnitOfWork) -> list[StockLow]:
    warnings = []
    for sku, pieces in lines.items():
        level = unit.get(Product, sku)
        assert level, "shortages() lets only known products through"
        before = domain.available(level)
        level.reserved += pieces
        warnings.append(domain.low(level, before))
    return [warning for warning in warnings if warning]


def _levels(reservation: Reservation, unit: UnitOfWork) -> list[tuple[Product, int]]:
    found = [(unit.get(Product, sku), pieces) for sku, pieces in reservation.lines.items()]
    return [(level, pieces) for level, pieces in found if level]
