"""The catalogue and its levels over HTTP: everyone reads, operators change."""

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import NAMESPACE_URL, uuid5

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field
from uuid_utils.compat import uuid7

from contracts.base import Money, Sku
from contracts.http.stock import AdjustmentIn, AdjustmentView, PriceChangeView, ProductIn, ProductView, ReservationView
from contracts.stock import ProductPriced, StockAdjusted
from services.stock import domain, store
from services.stock.store import Adjustment, PriceChange, Product, Reservation
from shared.http.auth import CallerOf, OperatorOf
from shared.http.body import Route
from shared.http.pages import CursorOf, Page, paginate
from shared.http.problems import Problem
from shared.http.protocol import KeyHeader, idempotency_key
from shared.persistence.clock import moment
from shared.service.http import Running

router = APIRouter(prefix="/v1", tags=["products"], route_class=Route)
SkuOf = Annotated[Sku, Path()]


class BySku(BaseModel):
    """Which part of the catalogue: `starting_after` a SKU, `ending_before` one, or what is between the two."""

    limit: int = Field(default=20, ge=1, le=100)
    starting_after: Sku | None = None
    ending_before: Sku | None = None


@router.get("/products")
async def list_products(service: Running, _: CallerOf, cursor: Annotated[BySku, Query()]) -> Page[ProductView]:
    """The catalogue in order of the SKU, with what is left of each product."""
    async with service.database.reading() as session:
        rows, more = await store.products(session, cursor.limit, cursor.starting_after, cursor.ending_before)
    return Page(data=[_view(row) for row in rows], has_more=more)


@router.get("/products/{sku}")
async def show_product(sku: SkuOf, service: Running, _: CallerOf) -> ProductView:
    """One product and what is left of it."""
    async with service.database.reading() as session:
        row = await store.product(session, sku)
    if row is None:
        raise _unknown(sku)
    return _view(row)


@router.put("/products/{sku}")
async def set_product(sku: SkuOf, body: ProductIn, request: Request, service: Running, who: OperatorOf) -> ProductView:
    """Set a product's name and price. Operators only."""
    price: dict[str, Any] = {"name": body.name, "price": body.price.amount, "currency": body.price.currency}
    async with service.outbox.request(request.scope["traceparent"]) as unit:
        row = await store.claimed(unit.session, sku)
        row.low_threshold = body.low_threshold
        if (row.name, row.price, row.currency) != tuple(price.values()):
            row.name, row.price, row.currency = body.name, body.price.amount, body.price.currency
            row.revision += 1
            unit.add(PriceChange(id=uuid7(), sku=sku, revision=row.revision, **price, changed_by=who.subject))
        # Said again even if nothing changed: that is how a price list that was lost is filled again.
        unit.send(
            ProductPriced(
                sku=sku,
                name=row.name,
                price=body.price,
                revision=row.revision,
                priced_at=datetime.now(UTC),
                priced_by=who.subject,
            )
        )
    return _view(row)


@router.post("/products/{sku}/adjustments")
async def adjust_stock(
    sku: SkuOf,
    body: AdjustmentIn,
    request: Request,
    service: Running,
    who: OperatorOf,
    key: KeyHeader = None,
) -> ProductView:
    """Add pieces that came, or take away what went. Never below what is reserved. Operators only."""
    given = idempotency_key(key)
    adjustment_id = uuid5(NAMESPACE_URL, f"{who.subject}\n{given}") if given else uuid7()
    wanted = Adjustment(id=adjustment_id, sku=sku, delta=body.delta, reason=body.reason, adjusted_by=who.subject)
    async with service.outbox.request(request.scope["traceparent"]) as unit:
        earlier = await store.claim(unit.session, wanted)
        if earlier and (earlier.sku, earlier.delta, earlier.reason) != (sku, body.delta, body.reason):
            raise Problem(422, "idempotency_key_reused", "This Idempotency-Key came with another adjustment before.")
        row = await store.product(unit.session, sku, lock=True)
        if row is None:
            raise _unknown(sku)
        if not earlier:
            before = domain.available(row)
            try:
                row.on_hand = domain.adjusted(row, body.delta)
            except domain.Impossible as error:
                raise Problem(409, "impossible_level", f"{error}.") from error
            unit.send(StockAdjusted(adjustment_id=wanted.id, **_adjustment(wanted)))
            if warning := domain.low(row, before):
                unit.send(warning)
    return _view(row)


@router.get("/reservations", include_in_schema=False)
async def list_reservations(service: Running, _: OperatorOf, cursor: CursorOf) -> Page[ReservationView]:
    """What orders reserved, took and gave back, newest order first. Orders that could not be served are not here."""
    async with service.database.reading() as session:
        rows, has_more = await paginate(session, store.reservations(), Reservation.order_id, cursor)
    return Page(data=[_reservation(row) for row in rows], has_more=has_more)


@router.get("/adjustments", include_in_schema=False)
async def list_adjustments(service: Running, _: OperatorOf, cursor: CursorOf) -> Page[AdjustmentView]:
    """All changes by hand, in descending order of their ids."""
    async with service.database.reading() as session:
        rows, has_more = await paginate(session, store.adjustments(), Adjustment.id, cursor)
    return Page(data=[AdjustmentView(id=row.id, **_adjustment(row)) for row in rows], has_more=has_more)


@router.get("/price-changes")
async def list_price_changes(service: Running, _: OperatorOf, cursor: CursorOf) -> Page[PriceChangeView]:
    """All changes of products' names and prices, newest first, and who made them. Operators only."""
    async with service.database.reading() as session:
        rows, has_more = await paginate(session, store.price_changes(), PriceChange.id, cursor)
    return Page(data=[_price_change(row) for row in rows], has_more=has_more)


def _reservation(row: Reservation) -> ReservationView:
    times = {
        name: moment(at)
        for name in ("reserved_at", "taken_at", "released_at")
        if (at := getattr(row, name)) is not None
    }
    return ReservationView(**row.held(), **times)


def _adjustment(row: Adjustment) -> dict[str, Any]:
    return {
        "sku": row.sku,
        "delta": row.delta,
        "reason": row.reason,
        "adjusted_by": row.adjusted_by,
        "adjusted_at": moment(row.adjusted_at),
    }


def _price_change(row: PriceChange) -> PriceChangeView:
    return PriceChangeView(
        id=row.id,
        sku=row.sku,
        revision=row.revision,
        name=row.name,
        price=Money(amount=row.price, currency=row.currency),
        changed_by=row.changed_by,
        changed_at=moment(row.changed_at),
    )


def _unknown(sku: str) -> Problem:
    return Problem(404, "product_not_found", f"There is no product {sku}.")


def _view(row: Product) -> ProductView:
    return ProductView(
        sku=row.sku,
        name=row.name,
        price=Money(amount=row.price, currency=row.currency),
        low_threshold=row.low_threshold,
        on_hand=row.on_hand,
        reserved=row.reserved,
        available=domain.available(row),
        revision=row.revision,
    )
