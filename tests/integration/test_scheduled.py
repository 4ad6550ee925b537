"""Messages for later, on both databases: each comes once, at its time, unless it was withdrawn."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update

from contracts.orders import OrderPlaced
from contracts.stock import StockReserved
from shared.messaging import scheduled as later
from shared.messaging.handler import on
from shared.messaging.outbox import Outbox
from shared.messaging.outbox import outbox as outbox_table
from shared.messaging.scheduled import Later, scheduled
from shared.messaging.unit import UnitOfWork
from shared.persistence import clock
from shared.persistence.database import Database
from tests.running import Broker, an_order, module_of, reserved, running

YEARS = datetime(2040, 1, 1, tzinfo=UTC)


def soon(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


async def waiting(database: Database) -> int:
    async with database.reading() as session:
        return await session.scalar(select(func.count()).select_from(scheduled)) or 0


async def make_due(database: Database) -> None:
    """As if the clock had been put forward by many years."""
    async with database.transaction() as session:
        await session.execute(update(scheduled).values(due_at=1))


def sent(outbox: Outbox) -> list[str]:
    return [message.envelope.message_id for message in outbox.hand.waiting]


async def test_a_message_comes_at_its_time_with_its_cause_and_what_a_handler_returns_may_wait(
    broker: Broker, database_url: str
) -> None:
    @on(OrderPlaced)
    async def on_order_placed(order: OrderPlaced, unit: UnitOfWork) -> list[StockReserved | Later]:
        return [Later(reserved(order.order_id), at=soon(1.5)), Later(reserved(order.order_id), at=YEARS)]

    spy = await broker.spy((StockReserved.exchange, StockReserved.key))
    async with running("stock", broker.url, database_url, module_of(on_order_placed)) as stock:
        began = datetime.now(UTC)
        await broker.publish(an_order(), id_="the-order")
        await spy.collect(1)
        assert (datetime.now(UTC) - began).total_seconds() > 1.4
        [message] = spy.seen
        assert message.headers["causation_id"] == message.correlation_id == "the-order"
        assert await waiting(stock.database) == 1


async def test_a_process_looks_twice_a_second_and_sends_what_is_due_and_no_more(database: Database) -> None:
    assert later.LOOK_SECONDS <= 0.5
    outbox = Outbox("stock", database)
    async with outbox.unit() as unit:
        unit.send(reserved(an_order().order_id), at=soon(-1))
        unit.send(reserved(an_order().order_id), at=soon(60))
    await outbox.send_due()
    assert len(sent(outbox)) == await waiting(database) == 1


async def test_a_transaction_that_fails_leaves_nothing_to_come(database: Database) -> None:
    outbox = Outbox("stock", database)
    with contextlib.suppress(ZeroDivisionError):
        async with outbox.unit() as unit:
            unit.send(reserved(an_order().order_id), at=soon(-1))
            _ = 1 / 0
    await outbox.send_due()
    assert sent(outbox) == []


async def test_processes_that_look_at_the_same_time_send_each_message_once(database: Database) -> None:
    boxes = [Outbox("stock", database) for _ in range(3)]
    async with boxes[0].unit() as unit:
        ids = [unit.send(reserved(an_order().order_id), at=YEARS).message_id for _ in range(2_500)]
    await make_due(database)
    await asyncio.gather(*(box.send_due() for box in boxes))
    assert sorted(id_ for box in boxes for id_ in sent(box)) == sorted(ids)
    assert await waiting(database) == 0


async def test_what_was_taken_and_not_published_is_in_the_outbox_of_whoever_goes_on(database: Database) -> None:
    """Taking deletes the row and fills the outbox in one transaction: a process that dies leaves one of the two."""
    dead = Outbox("stock", database)
    async with dead.unit() as unit:
        id_ = unit.send(reserved(an_order().order_id), at=YEARS).message_id
    await make_due(database)
    with contextlib.suppress(ZeroDivisionError):
        async with dead.unit() as unit:
            unit.outgoing += await later.take_due(unit.session, "stock")
            _ = 1 / 0
    assert await waiting(database) == 1
    await dead.send_due()
    async with database.reading() as session:
        assert (await session.scalars(select(outbox_table.c.message_id))).all() == [id_]
    assert await waiting(database) == 0


async def test_a_clock_that_jumps_a_day_forward_and_back_sends_each_message_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox, true_clock = Outbox("stock", database), clock.of_database
    async with outbox.unit() as unit:
        tomorrow = unit.send(reserved(an_order().order_id), at=soon(80_000)).message_id
        next_week = unit.send(reserved(an_order().order_id), at=soon(600_000)).message_id
    for days, came in ((0, []), (1, [tomorrow]), (0, [tomorrow]), (1, [tomorrow]), (8, [tomorrow, next_week])):
        ahead = days * 86_400_000
        monkeypatch.setattr(clock, "of_database", lambda session, ahead=ahead: true_clock(session) + ahead)
        await outbox.send_due()
        assert sent(outbox) == came, days


async def test_a_withdrawn_message_never_comes_and_one_that_was_taken_cannot_be_withdrawn(database: Database) -> None:
    outbox = Outbox("stock", database)
    async with outbox.unit() as unit:
        unit.send(reserved(an_order().order_id), at=YEARS, name="a")
        unit.send(reserved(an_order().order_id), at=YEARS, name="b")
        assert await unit.withdraw("a"), "in the transaction that sent it"
    async with outbox.unit() as unit:
        assert not await unit.withdraw("a")
    await make_due(database)
    await outbox.send_due()
    async with outbox.unit() as unit:
        assert not await unit.withdraw("b")
    assert len(sent(outbox)) == 1


async def test_whoever_is_first_wins_where_a_message_is_withdrawn_while_it_is_taken(database: Database) -> None:
    outbox, other = Outbox("stock", database), Outbox("stock", database)
    for taker_first in (True, False):
        async with outbox.unit() as unit:
            unit.send(reserved(an_order().order_id), at=YEARS, name="both want it")
        await make_due(database)
        before = len(sent(outbox))
        said: list[bool] = []

        async def withdraw(said: list[bool] = said) -> None:
            async with other.unit() as unit:
                said.append(await unit.withdraw("both want it"))

        first, second = (outbox.send_due, withdraw) if taker_first else (withdraw, outbox.send_due)
        running_first: Any = asyncio.create_task(first())  # type: ignore[operator]
        await asyncio.sleep(0)
        await asyncio.gather(running_first, second())  # type: ignore[operator]
        came = len(sent(outbox)) - before
        assert said == [not came], "it comes, or it was withdrawn: never both, never neither"
        assert await waiting(database) == 0


async def test_a_name_holds_one_message_the_last_one(database: Database) -> None:
    outbox = Outbox("stock", database)
    for _ in range(2):
        async with outbox.unit() as unit:
            unit.send(reserved(an_order().order_id), at=YEARS, name="timer")
            last = unit.send(reserved(an_order().order_id), at=soon(-1), name="timer").message_id
    assert await waiting(database) == 1
    await outbox.send_due()
    assert sent(outbox) == [last]


async def test_a_time_without_a_zone_is_refused(database: Database) -> None:
    async with Outbox("stock", database).unit() as unit:
        with pytest.raises(ValueError, match="no time zone"):
            unit.send(reserved(an_order().order_id), at=datetime(2040, 1, 1))  # noqa: DTZ001


async def test_looking_costs_the_same_with_many_rows_for_later(database: Database) -> None:
    """By the plan, not by a clock: the index on the time is read from its start."""
    row = {"exchange": "stock", "key": "k", "correlation_id": "c", "mandatory": False, "body": b"", "due_at": 2**50}
    async with database.transaction() as session:
        rows = [{**row, "message_id": f"{number:036}"} for number in range(20_000)]
        await session.execute(insert(scheduled), rows)
        prefix = "EXPLAIN " if session.get_bind().dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "
        query = select(func.min(scheduled.c.due_at))
        plan = (await session.connection()).exec_driver_sql(prefix + str(query))
        assert "ix_scheduled_due_at" in str((await plan).all())


async def test_many_that_write_and_withdraw_under_one_name_agree(database: Database) -> None:
    boxes = [Outbox("stock", database) for _ in range(8)]

    async def write(box: Outbox) -> None:
        async with box.unit() as unit:
            unit.send(reserved(an_order().order_id), at=YEARS, name="timer")

    async def withdraw(box: Outbox) -> bool:
        async with box.unit() as unit:
            return await unit.withdraw("timer")

    await asyncio.gather(*map(write, boxes))
    assert await waiting(database) == 1
    said = await asyncio.gather(*map(withdraw, boxes))
    assert (sum(said), await waiting(database)) == (1, 0)


async def test_a_name_is_for_one_message_for_later(database: Database) -> None:
    one = reserved(an_order().order_id)
    async with Outbox("stock", database).unit() as unit:
        for messages, more in (([one], {}), ([one, one], {"at": YEARS})):
            with pytest.raises(ValueError, match="names one message for later"):
                unit.send(*messages, name="timer", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "x" * 256])
async def test_a_name_that_no_database_stores_is_refused(database: Database, name: str) -> None:
    async with Outbox("stock", database).unit() as unit:
        with pytest.raises(ValueError, match="1 to 255 characters"):
            unit.send(reserved(an_order().order_id), at=YEARS, name=name)
