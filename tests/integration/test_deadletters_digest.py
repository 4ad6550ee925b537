"""Operators are told of dead letters, on both databases: soon, grouped, and not too often."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from uuid_utils.compat import uuid7

from contracts.email import DeliverMail, MailDigest
from services.deadletters import domain, handlers, periodic, store
from services.deadletters.store import digests
from services.deadletters.store import letters as stored
from services.deadletters.store.digests import Digest
from services.deadletters.store.letters import Group, Letter
from shared.messaging.outbox import Outbox, outbox
from shared.persistence.database import Database
from tests.deadlettering import shop_on
from tests.integration.test_deadletters_store import a_letter
from tests.running import Broker, hurry

GROUP = Group(id="0" * 12, lane="stock", message="order.placed.v1", reason="r")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain, "GATHER_MILLISECONDS", 0)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    found = Database(database_url)
    await found.create_all(store.metadata)
    async with found.transaction() as session:
        session.add(Group(**GROUP.model_dump()))
    yield found
    await found.dispose()


def a_process(database: Database) -> Outbox:
    return Outbox("deadletters", database)


async def come(database: Database, *letters: Letter) -> None:
    """Letters are collected, as in one batch."""
    async with database.transaction() as session:
        session.add_all(letters)
        await session.flush()
        await digests.count_new(session, letters)


async def told(database: Database) -> list[MailDigest]:
    """What email was asked to write so far."""
    async with database.reading() as session:
        rows = await session.execute(select(outbox.c.body).order_by(outbox.c.message_id))
        return [MailDigest.read(body) for (body,) in rows]


async def make_it_five_minutes_later(database: Database) -> None:
    async with database.transaction() as session:
        earlier: Any = {"sent_at": Digest.sent_at - domain.DIGEST_MILLISECONDS}  # type: ignore[operator]
        await session.execute(update(Digest).values(earlier))


async def test_what_was_given_up_is_told_once_grouped_and_counted(database: Database) -> None:
    process = a_process(database)
    await handlers.notify_operators(process)
    assert await told(database) == []
    await come(database, a_letter(), a_letter())
    await come(database, a_letter())
    for _ in range(2):
        await handlers.notify_operators(process)
    (digest,) = await told(database)
    assert (digest.new, digest.waiting, digest.more_groups) == (3, 3, 0)
    assert [(group.id, group.lane, group.count) for group in digest.groups] == [("0" * 12, "stock", 3)]


async def test_what_comes_soon_after_is_told_five_minutes_later(database: Database) -> None:
    process = a_process(database)
    await come(database, a_letter())
    await handlers.notify_operators(process)
    await come(database, a_letter(), a_letter())
    await handlers.notify_operators(process)
    assert [digest.new for digest in await told(database)] == [1]
    await make_it_five_minutes_later(database)
    await handlers.notify_operators(process)
    assert [(digest.new, digest.waiting) for digest in await told(database)] == [(1, 1), (2, 3)]


async def test_several_processes_tell_it_once(database: Database) -> None:
    await asyncio.gather(*(come(database, a_letter()) for _ in range(5)))
    await asyncio.gather(*(handlers.notify_operators(a_process(database)) for _ in range(5)))
    (digest,) = await told(database)
    assert digest.new == 5


async def test_letters_are_counted_once_where_two_processes_began_a_digest_at_once(database: Database) -> None:
    async with database.transaction() as session:
        session.add_all(Digest(id=uuid7(), letters=1, since=number) for number in (1, 2))
    await come(database, a_letter())
    await handlers.notify_operators(a_process(database))
    assert [digest.new for digest in await told(database)] == [3]


async def test_a_digest_that_cannot_be_sent_causes_none(database: Database) -> None:
    process = a_process(database)
    await come(database, a_letter())
    await handlers.notify_operators(process)
    async with database.reading() as session:
        job = await session.scalar(select(outbox.c.correlation_id))
    await make_it_five_minutes_later(database)
    lost = [a_letter(lane="email", message=MailDigest.key, correlation_id=job)]
    lost += [a_letter(lane="email.outgoing", message=DeliverMail.key, correlation_id=job) for _ in range(2)]
    await come(database, *lost)
    await handlers.notify_operators(process)
    assert len(await told(database)) == 1
    await come(database, a_letter(lane="email.outgoing", message=DeliverMail.key, correlation_id="a customer's order"))
    await handlers.notify_operators(process)
    assert [digest.new for digest in await told(database)] == [1, 1]


async def test_what_was_dealt_with_before_anybody_was_told_is_not_told(database: Database) -> None:
    letter = a_letter()
    await come(database, letter)
    async with database.transaction() as session:
        await stored.remove(session, [letter.id])
    await handlers.notify_operators(a_process(database))
    assert await told(database) == []


async def test_poison_is_told_of_without_anybody_asking(
    broker: Broker, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain, "GATHER_MILLISECONDS", 1_000)
    hurry(monkeypatch, periodic.notify, 0.1)
    spied = await broker.spy(("commands", MailDigest.key))
    async with shop_on(broker, database_url, tmp_path) as shop:
        await shop.fails("A", "A", "A")
        (digest,) = await spied.collect(1)
    assert digest["groups"][0]["lane"] == "stock"
    assert "nobody can reserve A" in digest["groups"][0]["reason"]
    assert 1 <= digest["new"] <= 3
