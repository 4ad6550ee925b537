"""A broker with several addresses: any of them will do, and the next one when it goes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aio_pika
import pytest
from yarl import URL

from deploy.local.ports import HOST, free_port
from services.stock.store import Reservation
from shared.messaging.amqp import connections
from shared.messaging.amqp.connections import Endpoints, connect
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


async def _is_at(service: Service, link: Link) -> bool:
    return set(service.nodes().values()) == {f"{HOST}:{link.port}"} and await is_ready(service)


async def _has(service: Service, number: int) -> bool:
    return await count(service, Reservation) == number


async def _says(service: Service, what: str) -> bool:
    return what in str((await service.checks())["broker"])
