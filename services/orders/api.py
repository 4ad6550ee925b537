"""Queries about orders. Orders are changed by messages only."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query

from contracts.base import Contract, Money, Sku
from contracts.http.orders import OrderView
from contracts.orders import OrderState
from services.orders import store
from services.orders.store import Order
from shared.http.auth import CallerOf, OperatorOf
from shared.http.body import Route
from shared.http.pages import CursorOf, Page, paginate
from shared.http.problems import Problem
from shared.http.protocol import IdOf
from shared.persistence.clock import moment
from shared.service.http import Running

router = APIRouter(prefix="/v1", tags=["orders"], route_class=Route)


class PriceView(Contract):
    """A line of the price list."""

    sku: Sku
    name: str
    price: Money
    revision: int


@router.get("/orders")
async def list_orders(
    service: Running, who: CallerOf, cursor: CursorOf, status: Annotated[OrderState | None, Query()] = None
) -> Page[OrderView]:
    """Your orders, those placed last first. An operator sees everyone's."""
    owner = None if who.is_operator else who.subject
    async with service.database.reading() as session:
        newest = Order.placed_at, partial(store.placed_at, owner)
        rows, has_more = await paginate(session, store.orders(owner, status), Order.id, cursor, newest)
    return Page(data=[_view(row) for row in rows], has_more=has_more)


@router.get("/orders/{order_id}")
async def show_order(order_id: IdOf, service: Running, who: CallerOf) -> OrderView:
    """One order. It can be a moment after its job was accepted until it is found here."""
    async with service.database.reading() as session:
        row = await store.order(session, order_id)
    if row is None or not who.may_see(row.customer_id):
        raise Problem(404, "order_not_found", f"There is no order {order_id}.")
    return _view(row)


@router.get("/prices", include_in_schema=False)
async def list_prices(service: Running, who: OperatorOf) -> dict[str, list[PriceView]]:
    """The whole price list, as stock last said it. For operators of this service: the gateway does not pass it on."""
    async with service.database.reading() as session:
        rows = await store.price_list(session)
    return {"data": [_price(row) for row in rows]}


def _price(row: store.ListPrice) -> PriceView:
    price = Money(amount=row.amount, currency=row.currency)
    return PriceView(sku=row.sku, name=row.name, price=price, revision=row.revision)


def _view(row: Order) -> OrderView:
    fields: dict[str, Any] = {
        "id": row.id,
        "status": row.state,
        "reason": row.reason,
        "rejected_lines": row.rejected_lines,
        "customer": row.customer,
        "currency": row.currency,
        "lines": row.lines,
        "total": None if row.total is None else Money(amount=row.total, currency=row.currency),
        "job_id": row.job_id,
    }
    times = {
        name: moment(at)
        for name in ("placed_at", "confirmed_at", "rejected_at", "cancelled_at")
        if (at := getattr(row, name))
    }
    return OrderView(**fields, **times)
