"""The messages of the orders service: its commands and its events."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from contracts.base import (
    UUID,
    AwareDatetime,
    Command,
    Contract,
    Currency,
    Email,
    Event,
    Integral,
    JobKind,
    JobState,
    Locale,
    Money,
    Quantity,
    Sku,
    text,
)

OrderState = Literal["PLACED", "CONFIRMED", "REJECTED", "CANCELLED"]
RejectionReason = Literal["unknown_sku", "out_of_stock", "currency_mismatch"]
# 200 lines of one SKU at 10,000 pieces each, added up.
SummedQuantity = Annotated[int, Field(strict=True, ge=1, le=2_000_000), Integral]


class Customer(Contract):
    """Who orders, and how to write to them."""

    id: Annotated[str, text(64)] = Field(examples=["ana"])
    name: Annotated[str, text(200)] = Field(examples=["Ana Souza"])
    email: Email
    locale: Locale = "pt-BR"


class OrderLine(Contract):
    """Some pieces of a product. Lines of the same SKU are added up when the order is placed."""

    sku: Sku
    quantity: Quantity


class PricedLine(Contract):
    """A line at the price that it was sold for; `total` is `unit_price` times `quantity`."""

    sku: Sku
    name: Annotated[str, text(200)] = Field(examples=["Coffee, 1 kg"])
    quantity: SummedQuantity
    unit_price: Money
    total: Money


class OrderedLine(Contract):
    """A line of an order in any state; without name and prices if it was rejected before it could be priced."""

    sku: Sku
    name: Annotated[str, text(200)] | None = Field(default=None, examples=["Coffee, 1 kg"])
    quantity: SummedQuantity
    unit_price: Money | None = Field(default=None, examples=[{"amount": 6990, "currency": "BRL"}])
    total: Money | None = Field(default=None, examples=[{"amount": 6990, "currency": "BRL"}])


class RejectedLine(Contract):
    """A line that could not be served: the ordered and the available pieces (None: an unknown product)."""

    sku: Sku
    quantity: SummedQuantity
    available: int | None = Field(default=None, ge=0, examples=[0])


class CancelOrder(Command):
    """Cancel an order. Answered by `OrderCancelled` or `OrderCancelRefused`."""

    key: ClassVar[str] = "order.cancel.v1"
    job_kind: ClassVar[JobKind | None] = JobKind("order.cancel", "/v1/orders/{order_id}/cancel", "order")

    order_id: UUID


class PlaceOrder(Command):
    """Place an order. Any shop's own system may send it to exchange `commands` with key `order.place.v1`.

    The sender does not set prices. Sent twice with the same `message_id`, or without one and with the same `order_id`,
    it is one order.
    """

    key: ClassVar[str] = "order.place.v1"
    job_kind: ClassVar[JobKind | None] = JobKind(
        "order.place", "/v1/orders", "order", is_creation=True, cancelled_by=CancelOrder
    )

    order_id: UUID
    customer: Customer
    currency: Currency
    lines: Annotated[tuple[OrderLine, ...], Field(min_length=1, max_length=200)]

    def identity(self) -> str | None:
        return str(self.order_id)


class OrderPlaced(Event):
    """An order was accepted and priced; its stock is not reserved yet."""

    exchange: ClassVar[str] = "orders"
    key: ClassVar[str] = "order.placed.v1"

    order_id: UUID
    customer: Customer
    lines: tuple[PricedLine, ...]
    total: Money
    placed_at: AwareDatetime


class OrderConfirmed(Event):
    """An order's stock is reserved: it will be delivered."""

    exchange: ClassVar[str] = "orders"
    key: ClassVar[str] = "order.confirmed.v1"
    job: ClassVar[JobState | None] = JobState.SUCCESS

    order_id: UUID
    customer: Customer
    lines: tuple[PricedLine, ...]
    total: Money
    placed_at: AwareDatetime
    confirmed_at: AwareDatetime


class OrderRejected(Event):
    """An order cannot be served. `rejected_lines` says which of its `lines` are to blame; `total` is None, and the
    lines have no prices, if it could not be priced."""

    exchange: ClassVar[str] = "orders"
    key: ClassVar[str] = "order.rejected.v1"
    job: ClassVar[JobState | None] = JobState.FAILURE

    order_id: UUID
    customer: Customer
    currency: Currency
    lines: tuple[OrderedLine, ...]
    total: Money | None
    reason: RejectionReason = Field(examples=["out_of_stock"])
    rejected_lines: tuple[RejectedLine, ...]
    placed_at: AwareDatetime
    rejected_at: AwareDatetime


class OrderCancelled(Event):
    """An order was cancelled on request. It ends two jobs: the request's, and the order's own if that still runs."""

    exchange: ClassVar[str] = "orders"
    key: ClassVar[str] = "order.cancelled.v1"
    job: ClassVar[JobState | None] = JobState.SUCCESS

    order_id: UUID
    customer: Customer
    lines: tuple[PricedLine, ...]
    total: Money
    placed_at: AwareDatetime
    cancelled_at: AwareDatetime
    order_job_id: str = Field(examples=["01985b3e-7b02-7f11-8a61-0c9d4e2b7a35"])

    def job_states(self, correlation_id: str) -> dict[str, JobState]:
        return {self.order_job_id: JobState.CANCELLED, correlation_id: JobState.SUCCESS}


class OrderCancelRefused(Event):
    """A request to cancel came too late: `reason` is the state that the order was in."""

    exchange: ClassVar[str] = "orders"
    key: ClassVar[str] = "order.cancel_refused.v1"
    job: ClassVar[JobState | None] = JobState.FAILURE

    order_id: UUID
    reason: Literal["already_rejected", "already_cancelled"]
