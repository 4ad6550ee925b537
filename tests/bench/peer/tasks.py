"""The peer's tasks, one after the other for each order: reserve, confirm; and its two mails."""

import os
import smtplib
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from celery import Celery
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from contracts.orders import OrderConfirmed, OrderPlaced
from tests.bench.peer import mail
from tests.bench.peer.models import Job, Order, Product, engine, now

app = Celery("peer", broker=os.environ["PEER_AMQP_URL"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,  # an order's outcome is in the database
    broker_transport_options={"confirm_publish": True},
    broker_pool_limit=40,  # a connection for each thread of the web process
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=16,
    worker_hijack_root_logger=False,
)
steadily: dict[str, Any] = {
    "autoretry_for": (OperationalError, smtplib.SMTPException, OSError),
    "retry_backoff": True,
    "max_retries": 8,
}


@app.task(**steadily)
def reserve(order_id: str) -> None:
    """Set all lines aside, or reject the order; tell the customer that we have it."""
    with Session(engine()) as session, session.begin():
        order = session.get_one(Order, UUID(order_id), with_for_update=True)
        if order.state != "PLACED":
            return
        pieces = {line["sku"]: line["quantity"] for line in order.lines}
        locked = select(Product).where(Product.sku.in_(pieces)).order_by(Product.sku).with_for_update()
        products = session.scalars(locked).all()
        is_there = all(product.on_hand - product.reserved >= pieces[product.sku] for product in products)
        if is_there:
            for product in products:
                product.reserved += pieces[product.sku]
        else:
            _end(session, order, "FAILURE")
        order.state = "RESERVED" if is_there else "REJECTED"
    tell.delay(order_id, "placed")
    if is_there:
        confirm.delay(order_id)


@app.task(**steadily)
def confirm(order_id: str) -> None:
    """The order will be delivered: its pieces leave the level."""
    with Session(engine()) as session, session.begin():
        order = session.get_one(Order, UUID(order_id), with_for_update=True)
        if order.state != "RESERVED":
            return
        pieces = {line["sku"]: line["quantity"] for line in order.lines}
        locked = select(Product).where(Product.sku.in_(pieces)).order_by(Product.sku).with_for_update()
        for product in session.scalars(locked):
            product.on_hand -= pieces[product.sku]
            product.reserved -= pieces[product.sku]
        order.state, order.confirmed_at = "CONFIRMED", now()
        _end(session, order, "SUCCESS")
    tell.delay(order_id, "confirmed")


@app.task(**steadily)
def tell(order_id: str, kind: str) -> None:
    """Write to the customer."""
    with Session(engine()) as session:
        order = session.get_one(Order, UUID(order_id))
    placed = OrderPlaced(
        order_id=order.id,
        customer=order.customer,
        lines=order.lines,
        total={"amount": order.total, "currency": order.currency},
        placed_at=_moment(order.placed_at),
    )
    if kind == "confirmed":
        mail.send(OrderConfirmed(**dict(placed), confirmed_at=_moment(order.confirmed_at or 0)))
    else:
        mail.send(placed)


def _end(session: Session, order: Order, status: str) -> None:
    job = session.get_one(Job, order.job_id)
    job.status, job.ended_at = status, now()


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
