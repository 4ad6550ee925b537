"""Whoever dies while dead letters are collected or sent again: none is lost, and none has its effect twice."""

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aio_pika
from sqlalchemy import func, select
from uuid_utils.compat import uuid7

from contracts.deadletters import ReplayLetters, Selection
from deploy.local.ports import free_port
from deploy.local.rabbitmq import RabbitNode
from services.deadletters.store.actions import Action
from services.deadletters.store.letters import Letter
from services.stock.store import Reservation
from shared.persistence.database import Database
from tests.chaos.processes import program
from tests.deadlettering import Stock
from tests.forking import Forked
from tests.integration.reserving import count
from tests.migrated import migrate
from tests.postgres import PostgresCluster
from tests.running import Broker, an_order, running, until

LETTERS = 300


def deadletters(broker: Broker, database_url: str) -> AbstractAsyncContextManager[Forked]:
    """Its process; killed at the end."""
    return program("deadletters", broker.url, database_url, str(free_port()))


class Ledger:
    """What the database says of letters."""

    def __init__(self, database_url: str) -> None:
        self._database = Database(database_url)

    async def letters(self, *that: Any) -> int:
        async with self._database.reading() as session:
            return await session.scalar(select(func.count()).select_from(Letter).where(*that)) or 0

    async def distinct(self) -> int:
        async with self._database.reading() as session:
            return await session.scalar(select(func.count(func.distinct(Letter.message_id)))) or 0

    async def has(self, number: int, *that: Any) -> bool:
        return await self.letters(*that) >= number

    async def replay(self) -> Action | None:
        async with self._database.reading() as session:
            return (await session.scalars(select(Action).where(Action.ended_at.is_not(None)))).first()  # type: ignore[union-attr]

    async def close(self) -> None:
        await self._database.dispose()


async def send_all_again(broker: Broker) -> None:
    wish = ReplayLetters(selection=Selection(all=True), rate=200, by="olga")
    id_ = str(uuid7())
    await broker.publish(wish, id_=id_, correlation_id=id_)


DONE, WAITING = Letter.state == "DONE", Letter.state == "WAITING"


async def test_letters_outlive_the_death_of_their_collector_of_their_sender_and_of_the_broker(
    rabbit: RabbitNode, broker: Broker, postgres: PostgresCluster, tmp_path: Path
) -> None:
    database_url = postgres.create_database("letters")
    stock, ledger = Stock(), Ledger(database_url)
    stock.broken.add("A")
    await asyncio.to_thread(migrate, "deadletters", database_url)
    async with running("stock", broker.url, f"sqlite:///{tmp_path}/stock.db", stock.handlers) as service:
        await asyncio.gather(*(broker.publish(an_order([("A", 1)])) for _ in range(LETTERS)))
        async with deadletters(broker, database_url):
            await until(lambda: ledger.has(LETTERS // 4), "some to be collected")
        assert await ledger.letters() < LETTERS, "the kill came too late to show anything"
        async with deadletters(broker, database_url):
            await until(lambda: ledger.has(LETTERS), "all to be collected")
        assert await broker.depth("stock.dlq") == 0
        assert await ledger.letters() == await ledger.distinct() == LETTERS

        stock.broken.clear()
        await send_all_again(broker)
        async with deadletters(broker, database_url):
            await until(lambda: ledger.has(LETTERS // 4, DONE), "some to be done")
        assert await ledger.letters(WAITING), "the kill came too late to show anything"
        async with deadletters(broker, database_url):
            await until(lambda: ledger.has(LETTERS // 2, DONE), "some more to be done")
            await asyncio.to_thread(rabbit.kill)
            await asyncio.to_thread(rabbit.start)
            replay = await until(ledger.replay, "the replay's end", 60)
        assert (replay.status, replay.total, replay.sent, replay.done, replay.failed) == ("DONE", *[LETTERS] * 3, 0)
        assert await ledger.letters(DONE, Letter.number == 1) == LETTERS
        assert await count(service, Reservation) == LETTERS
        async with await aio_pika.connect(broker.url) as connection:
            again = Broker(broker.url, await connection.channel())
            assert await again.depth("stock.dlq") == await again.depth("stock") == 0
    await ledger.close()
    postgres.drop_database("letters")
