"""Jobs about orders. Orders are accepted while the orders service is away."""

from uuid import UUID

from fastapi import APIRouter, Request, Response
from uuid_utils.compat import uuid7

from contracts.base import JobState
from contracts.http.orders import OrderIn
from contracts.orders import CancelOrder, PlaceOrder
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


# `starting` takes method and path from the command: POST /v1/orders.
@starting(router, PlaceOrder, "The order was confirmed while you waited; it is at `Location`.")
async def place_order(body: OrderIn, who: CallerOf, job: JobStart) -> Response:
    """Place an order. A customer orders for itself, an operator for anyone. Mail about a customer's order goes to the
    address that its token says to be its own, if it says one."""
    command = PlaceOrder(order_id=uuid7(), customer=body.customer, currency=body.currency, lines=body.lines)
    return await job.start(PlaceOrder, _order(command, body, who, job), command.order_id, body)


async def _order(command: PlaceOrder, body: OrderIn, who: Caller, job: Start) -> PlaceOrder:
    """The command. Raises `Problem` 403 for an order as somebody else, or whose mail would go to somebody else, and
    429 for too many mails to one address."""
    customer = command.customer
    if who.is_operator:
        return command
    if customer.id != who.subject:
        raise Problem(403, "not_your_order", "A customer places orders for itself: customer.id must be your own.")
    if not who.is_email_verified:
        await job.count_recipient(customer.email, body)
    elif not who.owns(customer.email):
        detail = "Mail about your orders goes to the address in your token: put it into customer.email."
        raise Problem(403, "not_your_address", detail)
    return command


@starting(router, CancelOrder)
async def cancel_order(order_id: IdOf, request: Request, service: Running, who: CallerOf, job: JobStart) -> Response:
    """Cancel an order: a job of its own, which fails if it came too late."""
    return await job.start(CancelOrder, _cancellation(order_id, request, service, who), order_id)


async def _cancellation(order_id: UUID, request: Request, service: Service, who: Caller) -> CancelOrder:
    """The command. Raises `Problem` 409 if the order has ended, and the refusals of the orders service, which is asked
    unless the job that placed the order shows that it can be cancelled."""
    async with service.database.reading() as session:
        placing = await jobs.job_that_placed(session, order_id)
    is_theirs = placing is not None and who.may_see(placing.owner, placing.role)
    if not (placing and is_theirs) or placing.status in (JobState.FAILURE, JobState.CANCELLED):
        order = await upstream(request, "orders").read(request, who, f"/v1/orders/{order_id}")
        if order["status"] in ("REJECTED", "CANCELLED"):
            raise Problem(409, "order_ended", f"The order has ended: {order['status']}.")
    return CancelOrder(order_id=order_id)
