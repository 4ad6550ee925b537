"""Processes that die where it hurts: nothing is lost, nothing is done twice."""

import asyncio
import signal
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import func, select
from uuid_utils.compat import uuid7

from contracts.email import DeliverMail
from services.stock.store import Reservation
from shared.messaging import membership
from shared.messaging.inbox import attempts, inbox
from shared.messaging.outbox import Outbox, outbox
from shared.messaging.scheduled import scheduled
from shared.persistence.database import Database
from tests.chaos.processes import program, stock_process
from tests.integration.reserving import RESERVED, on_order_placed
from tests.migrated import migrate
from tests.running import Broker, Spy, an_order, module_of, reserved, running, until

STARTS_SECONDS = 90.0
"""Generous: a process is started half a dozen times, beside other tests."""


async def count(database_url: str, table: Any) -> int:
    database = Database(database_url)
    async with database.reading() as session:
        found = await session.scalar(select(func.count()).select_from(table)) or 0
    await database.dispose()
    return found


def ids_of(spy: Spy) -> set[str | None]:
    return {message.message_id for message in spy.seen}


@pytest.mark.parametrize("moment", ["before_publish", "after_publish"])
async def test_a_process_killed_between_its_commit_and_its_tidying_loses_and_doubles_nothing(
    broker: Broker, database_url: str, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = await broker.spy(RESERVED)
    orders = [an_order() for _ in range(50)]
    await asyncio.gather(*(broker.publish(order) for order in orders))
    async with stock_process(broker.url, database_url, moment) as process:
        assert await asyncio.to_thread(process.wait, 60) == -signal.SIGKILL
    left_behind = await count(database_url, outbox)
    assert 0 < left_behind <= 50
    monkeypatch.setattr(membership, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(membership, "DEAD_AFTER_SECONDS", 1.0)
    async with running("stock", broker.url, database_url, module_of(on_order_placed)):
        await until(lambda: _counts(database_url, Reservation, 50), "all effects")
        await until(lambda: _is_empty(database_url, outbox), "the outbox to be empty")
    said = await spy.collect(50)
    assert (len(said) > 50) == (moment == "after_publish")
    assert {str(order.order_id) for order in orders} == {order["order_id"] for order in said}
    assert len(ids_of(spy)) == 50, "a copy has the id of its original, by which inboxes know it"
    assert await broker.depth("stock") == 0


async def test_messages_for_later_whose_process_is_killed_between_taking_and_publishing_come_once(
    broker: Broker, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = await broker.spy(RESERVED)
    await asyncio.to_thread(migrate, "stock", database_url)
    database = Database(database_url)
    async with Outbox("stock", database).unit() as unit:
        sent = {unit.send(reserved(an_order().order_id), at=datetime.now(UTC)).message_id for _ in range(50)}
    await database.dispose()
    async with stock_process(broker.url, database_url, "before_publish") as process:
        assert await asyncio.to_thread(process.wait, 60) == -signal.SIGKILL
    assert (await count(database_url, scheduled), await count(database_url, outbox)) == (0, 50), "taken, not published"
    monkeypatch.setattr(membership, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(membership, "DEAD_AFTER_SECONDS", 1.0)
    async with running("stock", broker.url, database_url, module_of(on_order_placed)):
        await until(lambda: _is_empty(database_url, outbox), "the outbox to be empty")
    await spy.collect(50)
    assert (len(spy.seen), ids_of(spy)) == (50, sent)


async def test_a_message_that_kills_its_process_goes_to_the_dead_letters_alone(
    broker: Broker, database_url: str
) -> None:
    spy = await broker.spy(RESERVED)
    orders = [an_order() for _ in range(500)]
    killer = an_order([("KILLER", 1)])
    messages = [*orders[:137], killer, *orders[137:]]
    await asyncio.gather(*(broker.publish(order, id_=str(order.order_id)) for order in messages))
    async with stock_process(broker.url, database_url, "supervised"):
        letter = await broker.take("stock.dlq", STARTS_SECONDS)
        assert letter.message_id == str(killer.order_id)
        assert letter.headers["failure_reason"] == "its process died the last 3 times that it was tried"
        await until(lambda: _counts(database_url, Reservation, 500), "all effects")
        await until(lambda: _is_empty(database_url, outbox), "the outbox to be empty")
    said = await spy.collect(500)
    assert {order["order_id"] for order in said} == {str(order.order_id) for order in orders}
    assert len(ids_of(spy)) == 500, "what was in flight at a death comes again, under the same id"
    assert await count(database_url, inbox) == 500
    assert await count(database_url, attempts) == 0
    assert await broker.depth("stock.dlq") == 0
    assert await broker.depth("stock") == 0


async def test_a_mail_that_kills_its_process_goes_to_the_dead_letters_alone(broker: Broker, database_url: str) -> None:
    await asyncio.to_thread(migrate, "email", database_url)
    mails = [DeliverMail(mail_id=uuid7()) for _ in range(13)]
    killer = mails[6]
    await asyncio.gather(*(broker.publish(mail, id_=str(mail.mail_id)) for mail in mails))
    async with program("email", broker.url, database_url, str(killer.mail_id)):
        letter = await broker.take("email.outgoing.dlq", STARTS_SECONDS)
        assert letter.message_id == str(killer.mail_id)
        await until(lambda: _counts(database_url, inbox, 12), "the others")
        await until(lambda: _is_empty(database_url, attempts), "all attempts to be over")
    assert await broker.depth("email.outgoing.dlq") == 0


async def test_a_process_told_to_end_under_load_ends_in_time_and_leaves_nothing_half_done(
    broker: Broker, database_url: str
) -> None:
    spy = await broker.spy(RESERVED)
    await asyncio.gather(*(broker.publish(an_order()) for _ in range(3000)))
    async with stock_process(broker.url, database_url) as process:
        await until(lambda: _has(database_url, Reservation, 100), "some work to be done")
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await asyncio.to_thread(process.wait, 60) == -signal.SIGTERM  # uvicorn's way to end in order
    done = await count(database_url, Reservation)
    assert 100 <= done < 3000, "the signal came too late to show anything"
    assert await broker.depth("stock") == 3000 - done
    assert await count(database_url, outbox) == 0
    said = await spy.collect(done)
    assert len(said) == len({order["order_id"] for order in said}) == done
    assert await broker.depth("stock.dlq") == 0


async def _is_empty(database_url: str, table: Any) -> bool:
    return await count(database_url, table) == 0


async def _has(database_url: str, table: Any, number: int) -> bool:
    return await count(database_url, table) >= number


async def _counts(database_url: str, table: Any, number: int) -> bool:
    return await count(database_url, table) == number
