"""A broker with several addresses: any of them will do, and the next one when it goes."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aio_pika.queue import Queue
from aiormq.connection import TCPTransportFactory
from yarl import URL

from contracts.broker import queue_of
from deploy.local.ports import HOST, free_port
from services.stock.store import Reservation
from shared.messaging.amqp import connections
from shared.messaging.amqp.connections import Endpoints, KeptConnection, connect
from shared.service import Service
from tests.chaos.proxy import Link, link_to
from tests.integration.reserving import count, on_order_placed
from tests.running import Broker, an_order, is_ready, module_of, running, until


def at(broker: Broker, *ports: int) -> str:
    """The test's vhost, at these ports."""
    return ",".join(str(URL(broker.url).with_port(port)) for port in ports)


def port_of(connection: aio_pika.Connection) -> int:
    """Of the node that it is to."""
    endpoints: Endpoints = connection.kwargs["transport_factory"]
    return int(endpoints.node.rpartition(":")[2])


@contextlib.asynccontextmanager
async def saying_nothing() -> AsyncIterator[int]:
    """A port where connections are taken and nothing is said, as a node that is frozen does."""

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(take, HOST, 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_nodes_that_are_away_or_frozen_are_passed_over(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ATTEMPT_SECONDS", 2.0)
    monkeypatch.setattr("random.sample", lambda all_, _: all_)  # the one that answers last
    port = URL(broker.url).port or 0
    async with saying_nothing() as frozen, await connect(at(broker, free_port(), frozen, port)) as connection:
        assert port_of(connection) == port


async def test_where_no_node_answers_the_last_one_is_named_and_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ATTEMPT_SECONDS", 0.2)
    async with saying_nothing() as frozen:
        with pytest.raises(ConnectionError, match=f"^{HOST}:{frozen} gives no answer within 0.2 s$"):
            await connect(f"amqp://stock:hunter2@{HOST}:{frozen}/,amqp://stock:hunter2@{HOST}:{frozen}/")


async def test_a_password_that_is_wrong_is_refused_by_each_and_said(broker: Broker) -> None:
    url = str(URL(broker.url).with_password("wrong"))
    with pytest.raises(aio_pika.exceptions.ProbableAuthenticationError):
        await connect(f"{url},{url}")


async def test_processes_spread_over_the_nodes(broker: Broker) -> None:
    """By chance, so of 20 all choose the same once in half a million times."""
    port = URL(broker.url).port or 0
    async with link_to(port) as link:
        nodes = set()
        for _ in range(20):
            async with await connect(at(broker, port, link.port)) as connection:
                nodes.add(port_of(connection))
    assert len(nodes) == 2


async def test_a_service_goes_on_at_the_next_node_and_comes_back_when_that_goes(broker: Broker, tmp_path: Path) -> None:
    port = URL(broker.url).port
    async with link_to(port) as one, link_to(port) as two:
        url = at(broker, one.port, two.port)
        async with running("stock", url, f"sqlite:///{tmp_path}/s.db", module_of(on_order_placed)) as stock:
            for number, (leaving, staying) in enumerate([(one, two), (two, one)], 1):
                await leaving.close()
                await until(lambda to=staying: _is_at(stock, to), "both connections to be at the other node", 60)
                await broker.publish(an_order())
                await until(lambda least=number: _has(stock, least), "the order to be reserved")
                await leaving.open(leaving.port)
            missed = asyncio.create_task(until(lambda: _says(stock, "127.0.0.1:"), "readiness to see it"))
            await asyncio.gather(one.close(), two.close())
            await missed
            await one.open(one.port)
            await until(lambda: _is_at(stock, one), "the only node to be found", 60)
    assert await broker.depth("stock.dlq") == 0


async def test_a_connection_that_dies_while_it_is_begun_is_made_again(broker: Broker) -> None:
    """What waits for the broker then is cancelled by aiormq, and not by us."""
    begun: list[aio_pika.Connection] = []

    async def begin(connection: aio_pika.Connection) -> None:
        begun.append(connection)
        if len(begun) == 1:
            raise asyncio.CancelledError

    kept = KeptConnection(broker.url, None, "test", begin)
    keeping = asyncio.create_task(kept.run())
    await until(lambda: _is(kept.missed is None), "the second connection")
    assert len(begun) == 2
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


@pytest.mark.parametrize("instead", [None, ConnectionError("refused")])
async def test_a_connection_ends_when_it_is_told_to_though_what_it_waits_for_forgets_it(
    broker: Broker, instead: Exception | None
) -> None:
    """As Python 3.11's `wait_for` does, when the broker answers or refuses at that moment."""
    waits = asyncio.Event()

    async def begin(_: aio_pika.Connection) -> None:
        waits.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        if instead:
            raise instead

    keeping = asyncio.create_task(KeptConnection(broker.url, None, "test", begin).run())
    await waits.wait()
    keeping.cancel()
    await asyncio.wait([keeping], timeout=20)
    assert keeping.cancelled()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives a connection up by its receipts")
@pytest.mark.parametrize(("publishes", "milliseconds"), [(False, 10_000), (True, 0)])
async def test_only_a_connection_that_does_not_publish_is_given_up_by_its_receipts(
    broker: Broker, publishes: bool, milliseconds: int
) -> None:
    """A broker in a memory alarm reads nothing from whoever publishes."""
    found: list[Any] = []
    factory = TCPTransportFactory.create

    async def create(*arguments: Any, **more: Any) -> Any:
        reader, writer = await factory(*arguments, **more)
        found.append(writer.get_extra_info("socket"))
        return reader, writer

    async def begin(_: aio_pika.Connection) -> None: ...

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TCPTransportFactory, "create", create)
        kept = KeptConnection(broker.url, None, "test", begin, publishes=publishes)
        keeping = asyncio.create_task(kept.run())
        await until(lambda: _is(kept.missed is None), "the connection")
    (there,) = found
    assert there.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == milliseconds  # type: ignore[attr-defined]
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_a_lane_that_is_stopped_while_it_subscribes_takes_nothing(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running("stock", broker.url, f"sqlite:///{tmp_path}/s.db", module_of(on_order_placed)) as stock:
        (subscription,) = stock._subscriptions
        queue = subscription._queue
        assert queue
        assert subscription._tag
        await queue.cancel(subscription._tag)
        subscription._tag = None
        consume = Queue.consume

        async def and_stop(queue: Queue, take: Any) -> str:
            tag = await consume(queue, take)
            await subscription.stop()
            return tag

        monkeypatch.setattr(Queue, "consume", and_stop)
        await subscription.reconcile()
        there = await broker.channel.declare_queue(queue_of("stock"), passive=True)
        assert there.declaration_result.consumer_count == 0


async def _is(thing: object) -> bool:
    return bool(thing)


async def _is_at(service: Service, link: Link) -> bool:
    return set(service.nodes().values()) == {f"{HOST}:{link.port}"} and await is_ready(service)


async def _has(service: Service, number: int) -> bool:
    return await count(service, Reservation) == number


async def _says(service: Service, what: str) -> bool:
    return what in str((await service.checks())["broker"])
