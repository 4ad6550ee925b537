"""The peer's one route. A plain function, which FastAPI runs in a thread: both the database and Celery block."""

import os
from collections import Counter
from typing import Annotated, Any
from uuid import UUID

import jwt
from fastapi import Depends, FastAPI, HTTPException, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from contracts.http.orders import OrderIn
from tests.bench.peer.models import Job, Order, Product, engine, now
from tests.bench.peer.tasks import reserve

app = FastAPI(title="The usual way")


class Started(BaseModel):
    """The job that an order became."""

    id: UUID
    order_id: UUID
    status: str = "PENDING"


def caller(given: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> dict[str, Any]:
    """What the token says of who calls."""
    try:
        options = {"require": ["exp", "sub"]}
        return dict(jwt.decode(given.credentials, os.environ["PEER_JWT_SECRET"], algorithms=["HS256"], options=options))
    except jwt.InvalidTokenError as error:
        raise HTTPException(401, "The token is not good.") from error


@app.post("/v1/orders", status_code=202)
def place_order(wish: OrderIn, who: Annotated[dict[str, Any], Depends(caller)], response: Response) -> Started:
    """Price an order, keep it, and leave the rest to the workers."""
    if who.get("role") != "operator" and wish.customer.id != who["sub"]:
        raise HTTPException(403, "A customer places orders for itself.")
    pieces: Counter[str] = Counter()
    for line in wish.lines:
        pieces[line.sku] += line.quantity
    started = Started(id=uuid7(), order_id=uuid7())
    with Session(engine()) as session, session.begin():
        products = session.scalars(select(Product).where(Product.sku.in_(pieces))).all()
        if len(products) < len(pieces) or any(product.currency != wish.currency for product in products):
            raise HTTPException(422, "Not all of it is a product of ours in this currency.")
        session.add(_order(wish, products, pieces, started))
        session.add(
            Job(id=started.id, owner=who["sub"], order_id=started.order_id, status=started.status, created_at=now())
        )
    reserve.delay(str(started.order_id))  # and no more: a second task published here costs a third of its requests
    response.headers["Location"] = f"/v1/jobs/{started.id}"
    return started


def _order(wish: OrderIn, products: Any, pieces: Counter[str], started: Started) -> Order:
    lines = [_line(product, pieces[product.sku]) for product in products]
    return Order(
        id=started.order_id,
        state="PLACED",
        job_id=started.id,
        customer_id=wish.customer.id,
        customer=wish.customer.model_dump(),
        lines=lines,
        total=sum(line["total"]["amount"] for line in lines),
        currency=wish.currency,
        placed_at=now(),
    )


def _line(product: Product, quantity: int) -> dict[str, Any]:
    def money(amount: int) -> dict[str, Any]:
        return {"amount": amount, "currency": product.currency}

    prices = {"unit_price": money(product.price), "total": money(product.price * quantity)}
    return {"sku": product.sku, "name": product.name, "quantity": quantity, **prices}


@app.get("/readyz")
def ready() -> dict[str, str]:
    """Whether the database answers."""
    with Session(engine()) as session:
        session.execute(select(1))
    return {"status": "ok"}
