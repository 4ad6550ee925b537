"""Connections that die without a word: only whoever asks for an answer in time finds out."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from yarl import URL

from services.stock.store import Reservation
from shared.messaging.amqp import connections
from shared.persistence import database as database_module
from shared.persistence.database import Database, is_outage
from tests.chaos.proxy import link_to
from tests.integration.reserving import RESERVED, count, on_order_placed
from tests.postgres import PostgresCluster
from tests.running import Broker, an_order, is_ready, module_of, running, until


async def test_connections_to_the_broker_that_died_without_a_word_are_found_and_replaced(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEARTBEAT_SECONDS", 1)
    url = URL(broker.url)
    spy = await broker.spy(RESERVED)
    async with link_to(url.port) as link:
        linked = str(url.with_port(link.port))
        async with running("stock", linked, f"sqlite:///{tmp_path}/s.db", module_of(on_order_placed)) as stock:
            await broker.publish(an_order())
            await spy.collect(1)
            link.forget()
            link.heal()
            await broker.publish(an_order())
            await spy.collect(2, 60)  # a busy machine misses a heartbeat of a second now and then
            await until(lambda: is_ready(stock), "the lane to be back", 60)
            assert await count(stock, Reservation) == 2


async def test_one_connection_to_the_database_that_gives_no_answer_is_replaced_with_all_others(
    postgres: PostgresCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "COMMAND_SECONDS", 0.5)
    url = URL(postgres.create_database("unanswered"))
    async with link_to(url.port) as link:
        database = Database(str(url.with_port(link.port)))
        await asyncio.gather(*(_ask(database, "SELECT pg_sleep(0.1)") for _ in range(5)))
        link.forget()
        link.heal()
        with pytest.raises(Exception) as failure:  # noqa: PT011 - of the driver's own
            await _ask(database)
        assert is_outage(failure.value)
        await _ask(database)
        await database.dispose()
    postgres.drop_database("unanswered")


def test_a_heartbeat_that_an_operator_wrote_into_the_address_stays() -> None:
    assert "heartbeat=30" in connections.address("amqps://stock:secret@broker/?heartbeat=30", "stock")
    assert "heartbeat=5" in connections.address("amqps://stock:secret@broker/", "stock")


async def _ask(database: Database, query: str = "SELECT 1") -> Any:
    async with database.reading() as session:
        return await session.scalar(text(query))
