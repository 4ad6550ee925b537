"""A backup taken while everything runs, restored on empty servers: nothing is missing, and nothing is there twice."""

import asyncio
import contextlib
import secrets
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Protocol, Self

import aio_pika
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from uuid_utils.compat import uuid7

from contracts.flow import SERVICES
from contracts.orders import Customer, OrderLine, PlaceOrder
from deploy.local import install
from deploy.local.rabbitmq import ADMINISTRATOR, RabbitNode
from services.email.adapters import Mailer
from services.email.store import Mail
from services.orders.store import ListPrice
from services.stock.store import Product
from shared.messaging import membership, topology
from shared.persistence.database import Database
from tests.postgres import PostgresCluster
from tests.running import LADDER, Broker, running, until
from tests.servers import create_vhost, manage
from tests.serving import NO_BROKER, Served, serving

DONE, ACCEPTED, LEVEL = 6, 3, 100
COUNTS = {
    "gateway": "SELECT count(*) FROM jobs WHERE status = 'SUCCESS'",
    "orders": "SELECT count(*) FROM orders WHERE state = 'CONFIRMED'",
    "stock": "SELECT count(*) FROM reservations WHERE state = 'TAKEN'",
    "reports": "SELECT count(*) FROM orders WHERE confirmed_at IS NOT NULL",
    "email": "SELECT count(*) / 2 FROM mails WHERE status = 'SENT'",  # placed, confirmed
}


class Backups(Protocol):
    """One kind of database: where each service's is, how to copy it while it is used, and how to bring it back."""

    def empty(self) -> str: ...

    def dump(self, url: str) -> Path: ...

    def restore(self, dump: Path) -> str: ...


class Sqlite:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def empty(self) -> str:
        return f"sqlite:///{self._folder}/{secrets.token_hex(4)}.db"

    def dump(self, url: str) -> Path:
        copy = self._folder / f"{secrets.token_hex(4)}.copy"
        with contextlib.closing(sqlite3.connect(make_url(url).database or "")) as connection:
            connection.execute("VACUUM INTO ?", (str(copy),))
        return copy

    def restore(self, dump: Path) -> str:
        url = self.empty()
        dump.rename(make_url(url).database or "")
        return url


class Postgresql:
    def __init__(self, folder: Path, cluster: PostgresCluster) -> None:
        self._folder, self._cluster = folder, cluster
        self._names: list[str] = []

    def empty(self) -> str:
        self._names.append(f"t{secrets.token_hex(4)}")
        return self._cluster.create_database(self._names[-1])

    def dump(self, url: str) -> Path:
        copy = self._folder / f"{secrets.token_hex(4)}.dump"
        _run("pg_dump", "--format=custom", f"--file={copy}", f"--dbname={url}")
        return copy

    def restore(self, dump: Path) -> str:
        url = self.empty()
        _run("pg_restore", "--exit-on-error", "--no-owner", f"--dbname={url}", str(dump))
        return url

    def drop(self) -> None:
        for name in self._names:
            self._cluster.drop_database(name)


def _run(program: str, *arguments: str) -> None:
    done = subprocess.run([str(install.postgres() / program), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(params=["sqlite", "postgresql"])
def backups(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backups]:
    if request.param == "sqlite":
        yield Sqlite(tmp_path)
        return
    found = Postgresql(tmp_path, request.getfixturevalue("postgres"))
    yield found
    found.drop()


@pytest.fixture
async def another_broker(rabbit: RabbitNode) -> AsyncIterator[Broker]:
    """One that has the topology, and no message."""
    name = f"t{secrets.token_hex(4)}"
    create_vhost(rabbit, name)
    url = rabbit.url_for(ADMINISTRATOR, rabbit.password, name)
    await topology.declare(url, LADDER)
    async with await aio_pika.connect(url) as connection:
        yield Broker(url, await connection.channel())
    manage(rabbit, "DELETE", f"/vhosts/{name}")


@contextlib.asynccontextmanager
async def shop(urls: dict[str, str], amqp_url: str) -> AsyncIterator[Served]:
    """All services behind their gateway, on these databases."""
    async with contextlib.AsyncExitStack() as stack:
        addresses = {}
        for name in SERVICES:
            if name != "gateway":
                served = await stack.enter_async_context(serving(name, amqp_url, urls[name]))
                addresses[f"{name}_url"] = served.url
        yield await stack.enter_async_context(serving("gateway", amqp_url, urls["gateway"], **addresses))


async def place(gateway: Served, *keys: int) -> list[str]:
    """Place an order for one piece under each idempotency key; the jobs' ids."""
    customer = {"id": "ana", "name": "Ana", "email": "ana@example.com"}
    wish = {"customer": customer, "currency": "BRL", "lines": [{"sku": "A", "quantity": 1}]}
    async with gateway.client() as client:
        answers = [
            await client.post("/v1/orders", json=wish, headers={"Idempotency-Key": f"order-{key}"}) for key in keys
        ]
    assert {answer.status_code for answer in answers} == {202}
    return [answer.json()["job_id"] for answer in answers]


class Databases:
    """All services' databases, to look into."""

    def __init__(self, urls: dict[str, str]) -> None:
        self._of = {service: Database(url) for service, url in urls.items()}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for database in self._of.values():
            await database.dispose()

    async def stock_up(self) -> None:
        """One product, with a price."""
        async with self._of["stock"].transaction() as session:
            session.add(Product(sku="A", name="A", price=100, currency="BRL", low_threshold=0, on_hand=LEVEL))
        async with self._of["orders"].transaction() as session:
            session.add(ListPrice(sku="A", name="A", amount=100, currency="BRL", revision=1))

    async def ask(self, service: str, query: str) -> Any:
        async with self._of[service].reading() as session:
            return await session.scalar(text(query))

    async def done(self) -> dict[str, int]:
        """How many orders each service takes for done."""
        return {service: await self.ask(service, COUNTS[service]) for service in self._of if service in COUNTS}

    async def agree(self, number: int) -> bool:
        return set((await self.done()).values()) == {number}


async def test_a_restored_backup_goes_on_where_it_was_taken(
    backups: Backups, broker: Broker, another_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(membership, "DEAD_AFTER_SECONDS", 2.0)
    sent: list[str] = []

    async def deliver(_: Mailer, mail: Mail, __: object) -> str:
        sent.append(mail.message_id)
        return "250 OK"

    monkeypatch.setattr(Mailer, "deliver", deliver)
    urls = {service: backups.empty() for service in SERVICES}
    spy = await broker.spy(("orders", "order.placed.v1"), ("orders", "order.confirmed.v1"))
    async with shop(urls, broker.url) as gateway, Databases(urls) as databases:
        await databases.stock_up()
        jobs = await place(gateway, *range(DONE))
        await until(lambda: databases.agree(DONE), "all services to agree")
        await spy.collect(2 * DONE)
        async with serving("gateway", NO_BROKER, urls["gateway"]) as cut_off:  # a second process of it
            jobs += await place(cut_off, *range(DONE, DONE + ACCEPTED))
            dumps = {service: await asyncio.to_thread(backups.dump, url) for service, url in urls.items()}
    sent.clear()

    restored = {service: await asyncio.to_thread(backups.restore, dump) for service, dump in dumps.items()}
    async with Databases(restored) as databases:
        assert await databases.done() == dict.fromkeys(COUNTS, DONE)
        assert await databases.ask("gateway", "SELECT count(*) FROM outbox") == ACCEPTED
        async with shop(restored, another_broker.url) as gateway:
            for seen in spy.seen:  # as a broker that was restored, too, would deliver them
                await another_broker.send(seen.body, "orders", seen.routing_key or "", message_id=seen.message_id)
            await until(lambda: databases.agree(DONE + ACCEPTED), "what was accepted to be done")
            assert await place(gateway, *range(DONE + ACCEPTED)) == jobs  # as clients would that saw no answer
        assert await databases.agree(DONE + ACCEPTED)
        assert await databases.ask("stock", "SELECT on_hand - reserved FROM products") == LEVEL - DONE - ACCEPTED
        assert await databases.ask("gateway", "SELECT count(*) FROM jobs") == DONE + ACCEPTED
    assert len(sent) == len(set(sent)) == 2 * ACCEPTED


async def test_what_came_after_the_backup_comes_back_by_being_sent_again(
    broker: Broker, another_broker: Broker, tmp_path: Path
) -> None:
    """Orders and stock go back to one moment; the shop's own system sends again what it sent since, as it was."""
    backups = Sqlite(tmp_path)
    customer = Customer(id="ana", name="Ana", email="ana@example.com")
    lines = (OrderLine(sku="A", quantity=1),)
    wishes = [PlaceOrder(order_id=uuid7(), customer=customer, currency="BRL", lines=lines) for _ in range(DONE)]
    urls = {service: backups.empty() for service in ("orders", "stock")}

    @contextlib.asynccontextmanager
    async def at_work(urls: dict[str, str], on: Broker) -> AsyncIterator[Databases]:
        services = running("orders", on.url, urls["orders"]), running("stock", on.url, urls["stock"])
        async with services[0], services[1], Databases(urls) as databases:
            yield databases

    async def send(on: Broker, *some: PlaceOrder) -> None:
        for wish in some:
            await on.publish(wish, id_=str(wish.order_id))

    async with at_work(urls, broker) as databases:
        await databases.stock_up()
        await send(broker, *wishes[:2])
        await until(lambda: databases.agree(2), "the first two to be confirmed")
        dumps = {service: backups.dump(url) for service, url in urls.items()}
        await send(broker, *wishes[2:])
        await until(lambda: databases.agree(DONE), "all to be confirmed")
    async with at_work(
        {service: backups.restore(dump) for service, dump in dumps.items()}, another_broker
    ) as databases:
        assert await databases.agree(2)
        await send(another_broker, *wishes)
        await until(lambda: databases.agree(DONE), "all to be confirmed again")
        assert await databases.ask("stock", "SELECT on_hand - reserved FROM products") == LEVEL - DONE
