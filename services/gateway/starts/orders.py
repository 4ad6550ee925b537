"""What becomes of wishes about orders. Orders are accepted while orders is away."""

from uuid import UUID

from fastapi import APIRouter, Request, Response
from uuid_utils.compat import uuid7

from contracts.base import JobState
from contracts.http import OrderIn
from contracts.orders import CancelOrder, Customer, PlaceOrder
from services.gateway.jobs.starting import JobStart, Start, starting
from services.gateway.proxy import upstream
from services.gateway.store import jobs
from shared.http.auth import Caller, CallerOf
from shared.http.body import Route
from shared.http.problems import Problem
from shared.http.protocol import IdOf
from shared.service import Service
from shared.service.http import Running

router = APIRouter(tags=["orders"], route_class=Route)


@starting(router, PlaceOrder, "The order was confirmed while you waited; it is at `Location`.")
async def place_order(wish: OrderIn, request: Request, who: CallerOf, job: JobStart) -> Response:
    """Place an order. A customer orders for itself, an operator for anyone. Mail about a customer's order goes to the
    address that its token says to be its own, if it says one."""
    command = PlaceOrder(order_id=uuid7(), customer=wish.customer, currency=wish.currency, lines=wish.lines)
    return await job.start(PlaceOrder, _order(command, wish, who, job), command.order_id, wish)


async def _order(command: PlaceOrder, wish: OrderIn, who: Caller, job: Start) -> PlaceOrder:
    """The command, if it is not one for a stranger. Raises `Problem` 403 or 429."""
    if not who.is_operator:
        _demand_own(command.customer, who)
        if not who.is_email_verified:
            await job.count_recipient(command.customer.email, wish)
    return command


def _demand_own(customer: Customer, who: Caller) -> None:
    """Raises `Problem` 403 for an order as somebody else, or whose mail would go to somebody else."""
    if customer.id != who.subject:
        raise Problem(403, "not_your_order", "A customer places orders for itself: customer.id must be your own.")
    if who.is_email_verified and not who.owns(customer.email):
        detail = "Mail about your orders goes to the address in your token: put it into customer.email."
        raise Problem(403, "not_your_address", detail)


@starting(router, CancelOrder)
async def cancel_order(order_id: IdOf, request: Request, service: Running, who: CallerOf, job: JobStart) -> Response:
    """Cancel an order: a job of its own, which fails if it came too late."""
    return await job.start(CancelOrder, _order_cancellation(order_id, request, service, who), order_id)


async def _order_cancellation(order_id: UUID, request: Request, service: Service, who: Caller) -> CancelOrder:
    async with service.database.reading() as session:
        placing = await jobs.job_that_placed(session, order_id)
    if (
        placing is None
        or not who.may_see(placing.owner, placing.role)
        or placing.status in (JobState.FAILURE, JobState.CANCELLED)
    ):
        await _demand_cancellable(request, who, order_id)
    return CancelOrder(order_id=order_id)


async def _demand_cancellable(request: Request, who: Caller, order_id: UUID) -> None:
    """Raises `Problem` with the status of orders' own answer, or 409 if the order has ended."""
    answer = await upstream(request, "orders").ask(request, who, f"/v1/orders/{order_id}")
    found = answer.json()
    if not answer.is_success:
        raise Problem(answer.status_code, found["code"], found["detail"])
    if found["status"] in ("REJECTED", "CANCELLED"):
        raise Problem(409, "order_ended", f"The order has ended: {found['status']}.")
