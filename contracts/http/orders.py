"""Orders over HTTP."""

from typing import Annotated

from pydantic import Field

from contracts.base import UUID, AwareDatetime, Contract, Currency, IsoCurrency, Money
from contracts.http.common import AT, JOB_ID, ORDER_ID, example
from contracts.orders import Customer, OrderedLine, OrderLine, OrderState, RejectedLine, RejectionReason


class OrderIn(Contract):
    """A request for an order: `PlaceOrder` without its id, which the gateway gives. The sender does not set prices."""

    model_config = example(
        customer={"id": "ana", "name": "Ana Souza", "email": "ana@example.com", "locale": "pt-BR"},
        currency="BRL",
        lines=[{"sku": "COFFEE-1KG", "quantity": 2}],
    )

    customer: Customer
    currency: IsoCurrency
    lines: Annotated[tuple[OrderLine, ...], Field(min_length=1, max_length=200)]


class OrderView(Contract):
    """An order as it stands."""

    id: UUID = Field(examples=[ORDER_ID])
    status: OrderState
    reason: RejectionReason | None = Field(default=None, description="Why it was rejected.")
    rejected_lines: tuple[RejectedLine, ...] = Field(default=(), description="The lines that are to blame.")
    customer: Customer
    currency: Currency
    lines: tuple[OrderedLine, ...]
    total: Money | None = None
    placed_at: AwareDatetime = Field(examples=[AT])
    confirmed_at: AwareDatetime | None = None
    rejected_at: AwareDatetime | None = None
    cancelled_at: AwareDatetime | None = None
    job_id: str = Field(description="The job that placed it: the id of the `PlaceOrder` message.", examples=[JOB_ID])
