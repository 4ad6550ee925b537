"""Several services in one process: each has its own database, broker user, lanes, port, log name and metrics."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from deploy.local.ports import HOST
from deploy.local.rabbitmq import RabbitNode
from tests import forking
from tests.migrated import migrate
from tests.running import LADDER, PASSWORDS, SECRET, Broker, to_place, until
from tests.several import lasting_port

NAMES = ("orders", "stock")


class Together:
    """Orders and stock in one process."""

    def __init__(self, rabbit: RabbitNode, broker: Broker, folder: Path) -> None:
        self.log = folder / "log"
        self.ports = {name: lasting_port() for name in NAMES}
        self.environment = {**os.environ, "MALOTE_JWT_SECRET": SECRET, "MALOTE_LOG_FORMAT": "json"}
        self.environment["MALOTE_RETRY_LADDER"] = ",".join(LADDER)
        vhost = httpx.URL(broker.url).path.removeprefix("/")
        for name in NAMES:
            url = f"sqlite:///{folder / f'{name}.db'}"
            migrate(name, url)
            own = {
                "AMQP_URL": rabbit.url_for(name, PASSWORDS[name], vhost),
                "DATABASE_URL": url,
                "PORT": self.ports[name],
            }
            self.environment |= {f"{name.upper()}_{field}": str(value) for field, value in own.items()}

    def start(self, *names: str) -> forking.Forked:
        with self.log.open("ab") as log:
            return forking.start("shared.service", *names, env=self.environment, stdout=log, stderr=log)

    async def ask(self, name: str, path: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
            return await http.get(f"http://{HOST}:{self.ports[name]}{path}")

    async def is_ready(self) -> bool:
        try:
            return all([(await self.ask(name, "/readyz")).status_code == 200 for name in self.ports])
        except httpx.HTTPError:
            return False


@pytest.fixture
async def together(rabbit: RabbitNode, guarded: Broker, tmp_path: Path) -> Together:
    return await asyncio.to_thread(Together, rabbit, guarded, tmp_path)


@pytest.fixture
async def process(together: Together) -> AsyncIterator[forking.Forked]:
    child = together.start("orders", "stock")
    try:
        await until(together.is_ready, f"both to be ready: {together.log}", 60)
        yield child
    finally:
        child.kill()
        child.wait()


async def test_two_services_in_one_process_carry_an_order(
    together: Together, process: forking.Forked, broker: Broker
) -> None:
    spy = await broker.spy(("orders", "order.rejected.v1"))
    order = to_place()
    await broker.publish(order)
    assert (await spy.collect(1))[0]["order_id"] == str(order.order_id)
    for name in NAMES:
        assert (await together.ask(name, "/readyz")).json()["service"] == name
        await together.ask(name, "/nowhere")
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 30) == -signal.SIGTERM
    lines = [json.loads(line) for line in together.log.read_text().splitlines()]
    for event in ("consuming", "http", "stopped"):
        assert {line["service"] for line in lines if line["event"] == event} == set(NAMES), event
    (asked,) = [line for line in lines if line["event"] == "http" and line["service"] == "stock"]
    assert asked["path"] == "/nowhere"


@pytest.mark.usefixtures("process")
async def test_each_tells_its_own_metrics_and_one_of_them_the_process(together: Together) -> None:
    orders, stock = [(await together.ask(name, "/metrics")).text for name in ("orders", "stock")]
    assert 'malote_outbox_messages{service="orders"}' in orders
    assert 'service="stock"' not in orders
    assert 'service="orders"' not in stock
    assert "\nprocess_resident_memory_bytes " in orders
    assert "\nprocess_resident_memory_bytes " not in stock


async def test_one_that_cannot_listen_ends_the_process(together: Together) -> None:
    with socket.create_server((HOST, together.ports["stock"])):
        assert await asyncio.to_thread(together.start("orders", "stock").wait, 60) == 78
    assert "STOCK_PORT (or MALOTE_PORT): cannot listen" in together.log.read_text()


@pytest.mark.parametrize(
    ("names", "said"), [(["stocks"], "there is no services/stocks/handlers.py"), ([], "NAME"), (["stock"] * 2, "once")]
)
def test_a_name_that_is_none_is_refused(names: list[str], said: str) -> None:
    done = forking.run("shared.service", *names)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
