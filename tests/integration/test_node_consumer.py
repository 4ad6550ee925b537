"""An outside team reads our events in another language: Node, amqplib and the committed schema, no code of ours."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from uuid_utils.compat import uuid7

from contracts import schema
from contracts.base import Money
from contracts.orders import Customer, OrderLine, PlaceOrder
from contracts.stock import ProductPriced
from deploy.local.rabbitmq import RabbitNode
from tests.nodejs import program
from tests.running import Broker, reserved, running
from tests.servers import manage

TEAM, PASSWORD = "newsletter", "a team's own password"
MAY = {"configure": "^newsletter$", "write": "^newsletter$", "read": "^(newsletter|orders)$"}
"""As the document's words have it: its own queue, and to bind it to the exchange of orders."""


@asynccontextmanager
async def consumer(rabbit: RabbitNode, broker: Broker, number: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """The Node program, once its queue is bound."""
    vhost = urlsplit(broker.url).path.removeprefix("/")
    manage(rabbit, "PUT", f"/users/{TEAM}", {"password": PASSWORD, "tags": ""})
    manage(rabbit, "PUT", f"/permissions/{vhost}/{TEAM}", MAY)
    committed = schema.FOLDER / "order.confirmed.v1.json"
    command = await asyncio.to_thread(program, "consume.mjs", TEAM, str(committed), str(number))
    environment = {**os.environ, "AMQP_URL": rabbit.url_for(TEAM, PASSWORD, vhost)}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=pipe, stderr=pipe)
    assert process.stderr
    try:
        assert await process.stderr.readline() == b"newsletter is bound\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    said, errors = await asyncio.wait_for(process.communicate(), 20)
    return process.returncode, said.decode(), errors.decode()


async def test_a_consumer_in_node_reads_confirmed_orders_by_the_committed_schema(
    rabbit: RabbitNode, broker: Broker, tmp_path: Path
) -> None:
    price = Money(amount=6990, currency="BRL")
    when = "2026-01-01T00:00:00Z"
    spy = await broker.spy(("orders", "order.placed.v1"))
    async with consumer(rabbit, broker, 2) as process, running("orders", broker.url, f"sqlite:///{tmp_path}/orders.db"):
        await broker.publish(ProductPriced(sku="A", name="Coffee", price=price, revision=1, priced_at=when))
        orders = [_order(), _order()]
        for order in orders:
            await broker.publish(order)
        for placed in await spy.collect(2):
            await broker.publish(reserved(placed["order_id"]))
        status, said, errors = await ended(process)
    assert (status, errors) == (0, "")
    lines = [json.loads(line) for line in said.splitlines()]
    assert {line["order_id"] for line in lines} == {str(order.order_id) for order in orders}
    assert all((line["type"], line["total"]) == ("order.confirmed.v1", 6990) for line in lines)
    assert len({line["message_id"] for line in lines}) == 2


def _order() -> PlaceOrder:
    ana = Customer(id="ana", name="Ana", email="ana@example.com")
    return PlaceOrder(order_id=uuid7(), customer=ana, currency="BRL", lines=(OrderLine(sku="A", quantity=1),))


@pytest.mark.parametrize(
    ("arguments", "address", "said"),
    [
        ((), "amqp://newsletter:no@127.0.0.1:9/", "usage: AMQP_URL="),
        (("newsletter", "/no/such/schema.json"), "amqp://newsletter:no@127.0.0.1:9/", "ENOENT"),
        (
            ("newsletter", str(schema.FOLDER / "order.confirmed.v1.json")),
            "amqp://newsletter:no@127.0.0.1:9/",
            "AMQP_URL: ",
        ),
    ],
)
def test_what_it_cannot_start_with_is_one_line(arguments: tuple[str, ...], address: str, said: str) -> None:
    command, environment = program("consume.mjs", *arguments), {**os.environ, "AMQP_URL": address}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"total": None}, "order/total must be object"),
        ({"placed_at": "yesterday"}, 'order/placed_at must match format "date-time"'),
    ],
)
async def test_it_ends_at_an_order_that_does_not_fit(
    change: dict[str, object], complaint: str, rabbit: RabbitNode, broker: Broker
) -> None:
    name = "order.confirmed.v1"
    body = json.loads((schema.FOLDER.parent / "asyncapi/orders.json").read_text())
    fitting = body["components"]["messages"][name]["examples"][0]["payload"]
    async with consumer(rabbit, broker, 2) as process:
        await broker.send(json.dumps(fitting).encode(), "orders", name, message_id="good", type=name)
        await broker.send(json.dumps(fitting | change).encode(), "orders", name, message_id="bad", type=name)
        status, said, errors = await ended(process)
    assert (status, said.count("\n")) == (1, 1)
    assert errors == f"{name} bad: {complaint}\n"
