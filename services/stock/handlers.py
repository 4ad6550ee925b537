"""What stock does on the events of orders."""

from contracts.orders import OrderCancelled, OrderConfirmed, OrderPlaced, OrderRejected
from contracts.stock import StockLow, StockRejected, StockReleased, StockReserved, StockTaken
from services.stock import domain
from services.stock.store import Product, Reservation, ReservationState, load_levels
from shared.messaging.handler import on
from shared.messaging.unit import UnitOfWork
from shared.persistence.clock import moment, now


@on(OrderPlaced, loads=load_levels)
async def on_order_placed(
    order: OrderPlaced, unit: UnitOfWork
) -> StockRejected | list[StockReserved | StockLow] | None:
    """Reserve all lines or none."""
    if unit.get(Reservation, order.order_id):
        return None  # a duplicate, or the cancellation arrived first
    levels = {line.sku: unit.get(Product, line.sku) for line in order.lines}
    if missing := domain.shortages(order.lines, levels):
        unit.add(Reservation(order_id=order.order_id, state=ReservationState.REFUSED))
        return StockRejected(order_id=order.order_id, rejected_lines=missing)
    lines = {line.sku: line.quantity for line in order.lines}
    reserved_at = now()
    reservation = Reservation(
        order_id=order.order_id, state=ReservationState.RESERVED, lines=lines, reserved_at=reserved_at
    )
    unit.add(reservation)
    return [StockReserved(**reservation.held(), reserved_at=moment(reserved_at)), *_reserve(lines, unit)]


@on(OrderConfirmed, loads=load_levels)
async def on_order_confirmed(order: OrderConfirmed, unit: UnitOfWork) -> StockTaken | None:
    """Take the reserved pieces out of the level."""
    reservation = unit.get(Reservation, order.order_id)
    if reservation is None or reservation.state != ReservationState.RESERVED:
        return None
    reservation.state, reservation.taken_at = ReservationState.TAKEN, now()
    for level, pieces in _levels(reservation, unit):
        level.on_hand -= pieces
        level.reserved -= pieces
    return StockTaken(**reservation.held(), taken_at=moment(reservation.taken_at))


@on(OrderCancelled, OrderRejected, loads=load_levels)
async def on_order_ended(order: OrderCancelled | OrderRejected, unit: UnitOfWork) -> StockReleased | None:
    """Release the pieces of the order. Without a reservation, store that the order has ended: its OrderPlaced may
    arrive later."""
    reservation = unit.get(Reservation, order.order_id)
    if reservation is None:
        unit.add(Reservation(order_id=order.order_id, state=ReservationState.RELEASED))
        return None
    if reservation.state not in (ReservationState.RESERVED, ReservationState.TAKEN):
        return None
    was_taken = reservation.state == ReservationState.TAKEN
    for level, pieces in _levels(reservation, unit):
        if was_taken:
            level.on_hand += pieces
        else:
            level.reserved -= pieces
    reservation.state, reservation.released_at = ReservationState.RELEASED, now()
    return StockReleased(**reservation.held(), was_taken=was_taken, released_at=moment(reservation.released_at))


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
