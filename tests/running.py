"""Services run inside the test's process, on a vhost and a database of their own."""

import asyncio
import contextlib
import dataclasses
import importlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import aio_pika
import pytest
from fastapi import APIRouter
from uuid_utils.compat import uuid7

from contracts.base import Message, Money
from contracts.broker import queue_of
from contracts.flow import LANES, SERVICES, SHOP
from contracts.orders import Customer, OrderLine, OrderPlaced, PlaceOrder, PricedLine
from contracts.stock import StockReserved
from deploy.local.rabbitmq import RabbitNode
from shared.config.services import settings_of
from shared.config.settings import ServiceSettings
from shared.messaging import membership, topology
from shared.messaging.amqp.connections import connect
from shared.messaging.periodic import Periodic, again_and_again
from shared.messaging.publisher import Publisher
from shared.messaging.relay import Relay
from shared.persistence.database import Database
from shared.service import Service
from tests.migrated import migrate
from tests.vhosts import Vhosts

SECRET = "a secret for tests that is long enough"
LADDER = ("100ms", "200ms")
PASSWORDS = {user: f"{user}-password" for user in (*SERVICES, SHOP)}
"""Those of the broker's users, where a test makes them."""
T = TypeVar("T")


async def until(look: Callable[[], Awaitable[T]], what: str = "the condition", seconds: float = 60.0) -> T:
    """Wait until `look` returns something true, and return it."""
    end = time.monotonic() + seconds
    while not (found := await look()):
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:g} s for {what}; last seen: {found!r}")
        await asyncio.sleep(0.02)
    return found


class Broker:
    """A test's own vhost with the topology in it, and a connection that may do everything."""

    def __init__(self, url: str, channel: aio_pika.abc.AbstractChannel) -> None:
        self.url, self.channel = url, channel

    async def publish(
        self, message: Message, *, id_: str | None = None, correlation_id: str | None = None, **more: Any
    ) -> str:
        """Publish a message as its owner would; return its id."""
        message_id = id_ or str(uuid7())
        body = message.model_dump_json().encode()
        more.setdefault("user_id", urlsplit(self.url).username)
        await self.send(
            body, message.exchange, message.key, message_id=message_id, correlation_id=correlation_id, **more
        )
        return message_id

    async def send(self, body: bytes, exchange: str, key: str, **properties: Any) -> None:
        """Publish anything at all, confirmed."""
        sent = aio_pika.Message(body, delivery_mode=2, **properties)
        target = await self.channel.get_exchange(exchange, ensure=False)
        await target.publish(sent, key)

    async def queue(self, name: str) -> aio_pika.abc.AbstractQueue:
        """A lane's queue by the lane's name, its dead letters' as `<lane>.dlq`, or any other by its own."""
        of_a_lane = name.removesuffix(".dlq") in LANES
        return await self.channel.declare_queue(queue_of(name) if of_a_lane else name, passive=True)

    async def depth(self, name: str) -> int:
        """Messages in a queue that are ready to be delivered."""
        return (await self.queue(name)).declaration_result.message_count or 0

    async def take(self, name: str, seconds: float = 60.0) -> aio_pika.abc.AbstractIncomingMessage:
        """Wait for a queue's next message, and remove it."""
        found = await self.queue(name)
        message = await until(lambda: found.get(fail=False), f"a message in {name}", seconds)
        await message.ack()
        return message

    async def another(self) -> aio_pika.abc.AbstractConnection:
        """A connection of its own that may do everything; close it."""
        return await aio_pika.connect(self.url)

    async def spy(self, *keys: tuple[str, str]) -> "Spy":
        """Listen to (exchange, key) pairs from now on."""
        queue = await self.channel.declare_queue(exclusive=True, auto_delete=True)
        for exchange, key in keys:
            await queue.bind(exchange, key)
        return Spy(queue)


class Spy:
    """A queue of the test's own."""

    def __init__(self, queue: aio_pika.abc.AbstractQueue) -> None:
        self._queue = queue
        self.seen: list[aio_pika.abc.AbstractIncomingMessage] = []

    async def collect(self, number: int, seconds: float = 60.0) -> list[dict[str, Any]]:
        """Wait for so many messages; return all bodies seen so far."""

        async def look() -> bool:
            while message := await self._queue.get(fail=False, no_ack=True):
                self.seen.append(message)
            return len(self.seen) >= number

        await until(look, f"{number} messages (seen: {[m.routing_key for m in self.seen]})", seconds)
        return [json.loads(message.body) for message in self.seen]


@pytest.fixture
async def broker(vhosts: Vhosts) -> AsyncIterator[Broker]:
    """The topology, with a short ladder, on a vhost where nothing else is."""
    async with vhosts.one() as url, await aio_pika.connect(url) as connection:
        yield Broker(url, await connection.channel())


@pytest.fixture(scope="session")
def vhosts(rabbit: RabbitNode) -> Vhosts:
    return Vhosts(rabbit, LADDER)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A database with the kernel's tables alone, on SQLite and on PostgreSQL."""
    found = Database(database_url)
    await found.create_all()
    yield found
    await found.dispose()


@pytest.fixture
async def guarded(rabbit: RabbitNode, broker: Broker) -> Broker:
    """The topology with its users and their permissions."""
    await topology.apply(broker.url, rabbit.management_url + "/", PASSWORDS, LADDER)
    return broker


def settings_for(name: str, amqp_url: str, database_url: str, **more: Any) -> ServiceSettings:
    """A service's own settings, for a test."""
    fixed = {
        "amqp_url": amqp_url,
        "database_url": database_url,
        "jwt_secret": SECRET,
        "retry_ladder": LADDER,
        "port": 0,
    }
    return settings_of(name)(_env_file=None, **{**fixed, **more})  # type: ignore[call-arg]


@contextlib.asynccontextmanager
async def running(
    name: str, amqp_url: str, database_url: str, handlers: ModuleType | None = None, **more: Any
) -> AsyncIterator[Service]:
    """A migrated service with its lanes at work, with its own handlers or with others."""
    settings = settings_for(name, amqp_url, database_url, **more)
    await asyncio.to_thread(migrate, name, database_url, settings.tls)
    handlers = handlers or importlib.import_module(f"services.{name}.handlers")
    service = Service(settings, handlers, APIRouter())
    async with service.running():
        await until(lambda: is_ready(service), f"{name} to be ready")
        yield service


async def publishing(amqp_url: str, name: str) -> Publisher:
    """A publisher on a connection of its own, which is not made again if it is lost; `close` it."""
    publisher = Publisher(amqp_url, name)
    await publisher.begin(await connect(amqp_url))
    return publisher


async def close(publisher: Publisher) -> None:
    assert publisher._made
    await publisher._made.close()


def hurry(monkeypatch: pytest.MonkeyPatch, part: Any, seconds: float) -> None:
    """Let services that are made from now on run one of their periodic parts so often."""
    monkeypatch.setattr(part, "periodic", dataclasses.replace(part.periodic, seconds=seconds))


def beating(relay: Relay) -> Coroutine[Any, Any, None]:
    """Its heartbeats, as the service has them."""
    return again_and_again(Periodic("tidy", relay.tidy, membership.HEARTBEAT_SECONDS))


async def is_ready(service: Service) -> bool:
    return not any((await service.checks()).values())


def module_of(*handlers: Any) -> ModuleType:
    """A module of handlers, made on the spot."""
    module = ModuleType("handlers")
    vars(module).update({handler.__name__: handler for handler in handlers})
    return module


def to_place() -> PlaceOrder:
    """An order that Ana wants to place."""
    ana = Customer(id="ana", name="Ana", email="ana@example.com")
    return PlaceOrder(order_id=uuid7(), customer=ana, currency="BRL", lines=(OrderLine(sku="A", quantity=1),))


def an_order(lines: Iterable[tuple[str, int]] = (("A", 1),), order_id: UUID | None = None) -> OrderPlaced:
    """An order placed by Ana, at one real a piece."""
    one = Money(amount=100, currency="BRL")
    priced = tuple(
        PricedLine(sku=sku, name=sku, quantity=pieces, unit_price=one, total=one * pieces) for sku, pieces in lines
    )
    return OrderPlaced(
        order_id=order_id or uuid7(),
        customer=Customer(id="ana", name="Ana", email="ana@example.com"),
        lines=priced,
        total=Money(amount=sum(line.total.amount for line in priced), currency="BRL"),
        placed_at="2026-01-01T00:00:00Z",
    )


def reserved(order_id: UUID) -> StockReserved:
    """What stock says once an order's lines are set aside."""
    return StockReserved(order_id=order_id, lines=(), reserved_at="2026-01-01T00:00:01Z")
