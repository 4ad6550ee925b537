"""What orders does: place, confirm, reject, cancel, and keep its price list."""

from collections.abc import Sequence

from contracts.base import Money
from contracts.orders import (
    CancelOrder,
    OrderCancelled,
    OrderCancelRefused,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    PlaceOrder,
    RejectedLine,
    RejectionReason,
)
from contracts.stock import ProductPriced, StockRejected, StockReserved
from services.orders import domain
from services.orders.domain import State
from services.orders.store import ListPrice, Order, load_for_placing, load_orders, load_prices, new_order
from shared.messaging.handler import RetryLater, on
from shared.messaging.unit import UnitOfWork
from shared.persistence.clock import moment, now


@on(PlaceOrder, loads=load_for_placing)
async def on_place_order(command: PlaceOrder, unit: UnitOfWork) -> OrderPlaced | OrderRejected | None:
    """Price an order from the price list and store it. An order that cannot be priced is stored as rejected."""
    if unit.get(Order, command.order_id):
        return None
    pieces = domain.summed(command.lines)
    order = new_order(command, pieces, job_id=unit.job_id)
    unit.add(order)
    try:
        lines = domain.price(pieces, command.currency, {sku: unit.get(ListPrice, sku) for sku in pieces})
    except domain.Refused as refused:
        return _reject(order, refused.reason, refused.lines)
    order.lines = [line.model_dump(mode="json") for line in lines]
    order.total = sum(line.total.amount for line in lines)
    return OrderPlaced(**order.sold())


@on(StockReserved, loads=load_orders)
async def on_stock_reserved(event: StockReserved, unit: UnitOfWork) -> OrderConfirmed | None:
    """All lines are reserved: confirm the order."""
    order = _known(event.order_id, unit)
    if not domain.may_become(order.state, State.CONFIRMED):
        return None
    order.state, order.confirmed_at = State.CONFIRMED, now()
    return OrderConfirmed(**order.sold(), confirmed_at=moment(order.confirmed_at))


@on(StockRejected, loads=load_orders)
async def on_stock_rejected(event: StockRejected, unit: UnitOfWork) -> OrderRejected | None:
    """A product has too few pieces: reject the order."""
    order = _known(event.order_id, unit)
    if not domain.may_become(order.state, State.REJECTED):
        return None
    return _reject(order, "out_of_stock", event.rejected_lines)


@on(CancelOrder, loads=load_orders)
async def on_cancel_order(command: CancelOrder, unit: UnitOfWork) -> OrderCancelled | OrderCancelRefused:
    """Cancel an order if its state allows it. Always answer: a job waits for the answer."""
    order = _known(command.order_id, unit)
    if not domain.may_become(order.state, State.CANCELLED):
        reason = "already_rejected" if order.state == State.REJECTED else "already_cancelled"
        return OrderCancelRefused(order_id=order.id, reason=reason)
    order.state, order.cancelled_at = State.CANCELLED, now()
    return OrderCancelled(**order.sold(), cancelled_at=moment(order.cancelled_at), order_job_id=order.job_id)


@on(ProductPriced, loads=load_prices)
async def on_product_priced(event: ProductPriced, unit: UnitOfWork) -> None:
    """Store the price, unless a newer one is known."""
    known = unit.get(ListPrice, event.sku)
    if known is None:
        known = ListPrice(sku=event.sku, name="", amount=0, currency="", revision=0)
        unit.add(known)
    if known.revision < event.revision:
        known.name, known.revision = event.name, event.revision
        known.amount, known.currency = event.price.amount, event.price.currency


def _known(order_id: object, unit: UnitOfWork) -> Order:
    order = unit.get(Order, order_id)
    if order is None:
        raise RetryLater(f"order {order_id} is not placed yet")
    return order


def _reject(order: Order, reason: RejectionReason, lines: Sequence[RejectedLine]) -> OrderRejected:
    order.state, order.reason, order.rejected_at = State.REJECTED, reason, now()
    order.rejected_lines = [line.model_dump(mode="json") for line in lines]
    return OrderRejected(
        order_id=order.id,
        customer=order.customer,
        currency=order.currency,
        lines=order.lines,
        total=None if order.total is None else Money(amount=order.total, currency=order.currency),
        reason=reason,
        rejected_lines=lines,
        placed_at=moment(order.placed_at),
        rejected_at=moment(order.rejected_at),
    )
