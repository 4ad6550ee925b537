"""The outbox on both databases, with a broker that does as the test says."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
from sqlalchemy import event, func, insert, select
from uuid_utils.compat import uuid7

from contracts.jobs import JobProgressed
from contracts.stock import StockLow
from shared.messaging import inbox, membership, relay
from shared.messaging.hand import Hand
from shared.messaging.membership import processes
from shared.messaging.outbox import Outbox, outbox
from shared.messaging.publisher import Outgoing, Publisher
from shared.messaging.relay import Relay
from shared.persistence.database import Database, Outage
from tests.postgres import PostgresCluster
from tests.running import beating, reserved, until


class Wire:
    """Stands in for the publisher: `down` says that there is no broker, `refuses` that it takes nothing."""

    def __init__(self) -> None:
        self.down = self.refuses = False
        self.sent: list[str] = []

    async def publish(self, messages: Sequence[Outgoing]) -> list[bool]:
        await asyncio.sleep(0)
        if self.down:
            raise Outage("no broker")
        if not self.refuses:
            self.sent += [message.envelope.message_id for message in messages]
        return [not self.refuses] * len(messages)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(membership, "DEAD_AFTER_SECONDS", 0.5)


@contextlib.asynccontextmanager
async def at_work(database: Database, wire: Any, *, tidies: bool = True) -> AsyncIterator[Relay]:
    box = Relay(Outbox("stock", database), database, wire)
    work = [box.publish(), beating(box)] if tidies else [box.publish()]
    tasks = [asyncio.create_task(coroutine) for coroutine in work]
    yield box
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def say(box: Relay, number: int) -> list[str]:
    """Commit so many messages, one a transaction; return their ids."""
    ids = []
    for _ in range(number):
        async with box.outbox.unit() as unit:
            ids.append(unit.send(reserved(uuid7())).message_id)
    return ids


async def rows(database: Database, table: Any = outbox) -> int:
    async with database.reading() as session:
        return await session.scalar(select(func.count()).select_from(table)) or 0


async def test_what_is_committed_is_published_in_order_then_deleted(database: Database) -> None:
    wire = Wire()
    async with at_work(database, wire) as box:
        ids = await say(box, 20)
        await until(lambda: _none_left(database), "the table to be empty")
    assert wire.sent == ids


async def test_more_than_fits_in_hand_is_read_back_in_order_and_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hand, "limit", 10)
    monkeypatch.setattr(Hand, "at_once", 4)
    wire = Wire()
    wire.down = True
    async with at_work(database, wire) as box:
        ids = await say(box, 45)
        wire.down = False
        later = await say(box, 15)
        await until(lambda: _none_left(database), "the table to be empty")
    assert wire.sent == [*ids, *later]


async def test_many_units_at_once_are_read_back_without_a_copy_or_a_gap(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hand, "limit", 10)
    monkeypatch.setattr(Hand, "at_once", 4)
    wire = Wire()
    async with at_work(database, wire) as box:
        found = await asyncio.gather(*(say(box, 10) for _ in range(8)))
        await until(lambda: _none_left(database), "the table to be empty")
    assert sorted(wire.sent) == sorted(id_ for ids in found for id_ in ids)


async def test_a_batch_of_one_is_four_round_trips_and_those_of_its_handler(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "HEARTBEAT_SECONDS", 600)
    box, wire = Outbox("stock", database), Wire()
    relay = Relay(box, database, wire)  # type: ignore[arg-type]
    trips: list[str] = []
    for name in ("begin", "commit"):
        event.listen(database._writer.sync_engine, name, lambda *_, name=name: trips.append(name.upper()))
    event.listen(
        database._writer.sync_engine, "before_cursor_execute", lambda *about: trips.append(about[2].partition(" (")[0])
    )
    async with box.unit():
        pass  # its heartbeat is not due again below
    for _ in range(3):
        trips.clear()
        async with box.unit() as unit:
            await inbox.claim(unit.session, "stock", {str(uuid7())})
            unit.send(reserved(uuid7()))
        assert trips == ["BEGIN", "INSERT INTO inbox", "INSERT INTO outbox", "COMMIT"]
        await relay._publish_some()
    await box.delete_published()
    assert await rows(database) == 0


async def test_what_is_deleted_while_the_table_is_read_is_not_said_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "DEAD_AFTER_SECONDS", 60)
    monkeypatch.setattr(Hand, "worth_a_statement", 1)
    wire = Wire()
    box = Relay(Outbox("stock", database), database, wire)  # type: ignore[arg-type]
    (said,) = await say(box, 1)
    await box._publish_some()
    deletes, reading = asyncio.Event(), database.reading

    async def delete() -> None:
        async with box.outbox.unit():  # has taken what it is to delete
            await deletes.wait()

    deleting = asyncio.create_task(delete())
    await until(lambda: _is_true(not box._hand.has_confirmed), "the transaction that deletes")

    @contextlib.asynccontextmanager
    async def then_deleted() -> AsyncIterator[Any]:
        async with reading() as session:
            yield session
        deletes.set()
        await deleting

    monkeypatch.setattr(database, "reading", then_deleted)
    await box._read_back()
    assert not box._hand.waiting
    assert wire.sent == [said]


async def test_what_is_read_before_its_transaction_knows_that_it_is_committed_is_said_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Wire()
    box = Relay(Outbox("stock", database), database, wire)  # type: ignore[arg-type]
    knows, transaction = asyncio.Event(), database.transaction

    @contextlib.asynccontextmanager
    async def slow_to_know() -> AsyncIterator[Any]:
        async with transaction() as session:
            yield session
        await knows.wait()

    monkeypatch.setattr(database, "transaction", slow_to_know)
    committing = asyncio.create_task(say(box, 1))
    await until(lambda: _one_is_left(database), "the commit")
    monkeypatch.setattr(database, "transaction", transaction)
    for _ in range(2):
        await box._read_back()
        while box._hand.waiting:
            await box._publish_some()
    knows.set()
    (said,) = await committing
    while box._hand.waiting:
        await box._publish_some()
    assert wire.sent.count(said) == 1


async def test_what_the_broker_refuses_is_offered_again(database: Database) -> None:
    wire = Wire()
    wire.refuses = True
    async with at_work(database, wire) as box:
        ids = await say(box, 3)
        await until(lambda: _is_true(not box._hand.waiting), "a refusal")
        assert await rows(database) == 3
        wire.refuses = False
        await until(lambda: _none_left(database), "the table to be empty")
    assert wire.sent == ids


async def test_what_the_broker_goes_on_refusing_is_offered_less_and_less_often(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With each offer, lanes that have taken an event get it once more: a full one must not fill the others."""
    wire = Wire()
    wire.refuses = True
    now = 1000.0
    for part in (membership, relay):
        monkeypatch.setattr(part, "time", SimpleNamespace(monotonic=lambda: now, time=time.time))
    monkeypatch.setattr(membership, "HEARTBEAT_SECONDS", 2.0)
    monkeypatch.setattr(membership, "DEAD_AFTER_SECONDS", 8.0)
    box = Relay(Outbox("stock", database), database, cast(Publisher, wire))
    await say(box, 3)
    await box._publish_some()
    offers = []
    for beat in range(40):
        await box._tidy_once()
        if box._hand.is_behind:
            offers.append(beat)
            await box._read_back()
            await box._publish_some()
        now += membership.HEARTBEAT_SECONDS
    assert offers == [0, 1, 3, 7, 15, 23, 31, 39]
    assert not wire.sent
    wire.refuses = False
    now += membership.HEARTBEAT_SECONDS * relay.LONGEST_PATIENCE
    await box._tidy_once()
    await box._read_back()
    await box._publish_some()
    assert len(wire.sent) == 3


async def test_a_dead_process_messages_are_adopted_in_order(database: Database) -> None:
    silent, wire = Wire(), Wire()
    silent.down = True
    async with at_work(database, wire) as heir:
        async with at_work(database, silent, tidies=False) as dead:
            left = await say(dead, 5)
        await until(lambda: _none_left(database), "the adoption")
        own = await say(heir, 1)
        await until(lambda: _none_left(database), "its own")
    assert wire.sent == [*left, *own]


async def test_a_living_process_keeps_its_own_however_long_it_cannot_publish(database: Database) -> None:
    silent, wire = Wire(), Wire()
    silent.down = True
    async with at_work(database, silent) as slow, at_work(database, wire):
        kept = await say(slow, 5)
        since = time.time()
        await until(lambda: _was_seen(database, slow, since + 3 * membership.DEAD_AFTER_SECONDS), "many heartbeats")
        silent.down = False
        await until(lambda: _none_left(database), "the table to be empty")
    assert silent.sent == kept
    assert not wire.sent


async def test_a_process_that_ends_in_order_leaves_its_messages_to_be_adopted_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "DEAD_AFTER_SECONDS", 3600)
    silent, wire = Wire(), Wire()
    silent.down = True
    async with at_work(database, silent) as ending:
        left = await say(ending, 5)
    await ending.close()
    async with at_work(database, wire):
        await until(lambda: _none_left(database), "the table to be empty")
    assert wire.sent == left


async def test_a_transaction_that_fails_says_nothing(database: Database) -> None:
    wire = Wire()
    async with at_work(database, wire) as box:
        with pytest.raises(ZeroDivisionError):
            await _say_and_fail(box)
        ids = await say(box, 1)
        await until(lambda: _none_left(database), "the table to be empty")
    assert wire.sent == ids


async def test_transient_messages_are_said_and_never_stored(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process that is taken for dead, as a stalled one may be, forgets what is stored nowhere.
    monkeypatch.setattr(membership, "DEAD_AFTER_SECONDS", 600.0)
    wire = Wire()
    wire.down = True
    async with at_work(database, wire) as box:
        async with box.outbox.unit() as unit:
            unit.send(JobProgressed(done=1, unit="rows"))
        assert await rows(database) == 0
        wire.down = False
        await until(lambda: _is_true(wire.sent), "the message")


async def test_stopping_publishes_what_is_in_hand_once(database: Database) -> None:
    wire = Wire()
    box = Relay(Outbox("stock", database), database, wire)  # type: ignore[arg-type]
    publishing = asyncio.create_task(box.publish())
    ids = await say(box, 30)
    box.stop()
    await asyncio.wait_for(publishing, 5)
    await box.close()
    assert wire.sent == ids
    assert await rows(database) == 0
    assert await rows(database, processes) == 0


async def test_stopping_without_a_broker_ends_at_once_and_keeps_everything(database: Database) -> None:
    wire = Wire()
    wire.down = True
    box = Relay(Outbox("stock", database), database, wire)  # type: ignore[arg-type]
    publishing = asyncio.create_task(box.publish())
    await say(box, 30)
    box.stop()
    await asyncio.wait_for(publishing, 6)
    await box.close()
    assert await rows(database) == 30


async def test_a_row_that_is_back_after_a_failover_is_said_again_though_its_owner_lives(database: Database) -> None:
    """An asynchronous standby that takes over has not heard of the last deletions."""
    wire = Wire()
    async with at_work(database, wire) as box:
        [first] = await say(box, 1)
        await until(lambda: _none_left(database), "what was said to be deleted")
        async with database.transaction() as session:
            await session.execute(
                insert(outbox).values(_left_behind() | {"message_id": first, "owner": box.outbox.owner})
            )
        await until(lambda: _was_sent(wire, 2), "the row to be found")
        await until(lambda: _none_left(database), "it to be deleted")
        await say(box, 1)
        await until(lambda: _was_sent(wire, 3), "what is new to be said")
    assert wire.sent[:2] == [first, first]


async def _say_and_fail(box: Relay) -> None:
    async with box.outbox.unit() as unit:
        unit.send(reserved(uuid7()))
        raise ZeroDivisionError


async def _was_seen(database: Database, box: Relay, after: float) -> bool:
    async with database.reading() as session:
        seen_at = await session.scalar(select(processes.c.seen_at).where(processes.c.id == box.outbox.owner))
    return bool(seen_at and seen_at > after)


async def _one_is_left(database: Database) -> bool:
    return await rows(database) == 1


async def _none_left(database: Database) -> bool:
    return await rows(database) == 0


async def _is_true(thing: object) -> bool:
    return bool(thing)


class Picky(Wire):
    """Takes everything but warnings, as a broker without their queue would."""

    async def publish(self, messages: Sequence[Outgoing]) -> list[bool]:
        await asyncio.sleep(0)
        taken = [message.envelope.key != StockLow.key for message in messages]
        self.sent += [m.envelope.message_id for m, is_taken in zip(messages, taken, strict=True) if is_taken]
        return taken


async def test_what_the_broker_refuses_does_not_keep_it_from_the_rest(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hand, "limit", 10)
    wire = Picky()
    async with at_work(database, wire) as box:
        for _ in range(12):
            async with box.outbox.unit() as unit:
                unit.send(StockLow(sku="A", name="a", available=0, threshold=1))
        for _ in range(3):
            async with box.outbox.unit() as unit:
                good = unit.send(reserved(uuid7())).message_id
            await until(lambda good=good: _is_in(good, wire.sent), "the good one")  # type: ignore[misc]


async def _is_in(message_id: str, sent: list[str]) -> bool:
    return message_id in sent


async def test_after_an_outage_everybody_is_alive_until_it_was_looked_at_for_long_enough(database: Database) -> None:
    """Two processes lose the database for longer than a dead one is waited for: neither takes over from the other."""
    one, other = Relay(Outbox("stock", database), database, Wire()), Relay(Outbox("stock", database), database, Wire())  # type: ignore[arg-type]
    for box in (one, other):
        await box._tidy_once()
    async with database.transaction() as session:
        await session.execute(processes.update().values(seen_at=time.time() - 3600))
    other._membership._looked_at -= 10  # as if it had not been able to look for that long
    await other._tidy_once()
    async with database.reading() as session:
        assert await other._membership.is_living(session, one.outbox.owner)
        assert await session.scalar(select(func.count()).select_from(processes)) == 2


async def test_what_a_process_that_has_just_begun_adopts_is_left_to_it(postgres: PostgresCluster) -> None:
    """Who began to look before that does not know of it, and would take what it finds for a dead process's."""
    url = postgres.create_database("justbegun")
    slow, quick = Database(url), Database(url)
    await slow.create_all()
    async with slow.transaction() as session:
        await session.execute(insert(outbox), [_left_behind() for _ in range(5)])
    looking = asyncio.Event()

    @event.listens_for(slow._writer.sync_engine, "before_cursor_execute", retval=True)
    def slowly(_: Any, __: Any, statement: str, values: Any, *___: Any) -> tuple[str, Any]:
        if "SKIP LOCKED" in statement:
            looking.set()
            statement = statement.replace("WHERE ", "WHERE (SELECT pg_sleep(1)) IS NOT NULL AND ", 1)
        return statement, values

    one, other = Relay(Outbox("stock", slow), slow, Wire()), Relay(Outbox("stock", quick), quick, Wire())  # type: ignore[arg-type]
    with structlog.testing.capture_logs() as lines:
        tidying = asyncio.create_task(one._tidy_once())
        await looking.wait()
        await other._tidy_once()
        await tidying
    assert [line["messages"] for line in lines] == [5]
    await asyncio.gather(slow.dispose(), quick.dispose())
    postgres.drop_database("justbegun")


async def test_a_process_that_was_away_for_too_long_leaves_alone_what_others_have_adopted(database: Database) -> None:
    """As after SIGSTOP and SIGCONT: what it has in hand is no longer its own, what it says from now on is."""
    silent, wire = Wire(), Wire()
    silent.down = True
    async with at_work(database, wire), at_work(database, silent, tidies=False) as stopped:
        left = await say(stopped, 5)
        await until(lambda: _was_sent(wire, 5), "the adoption")
        silent.down = False
        going_on = asyncio.create_task(beating(stopped))
        own = await say(stopped, 3)
        await until(lambda: _none_left(database), "the table to be empty")
        going_on.cancel()
    assert wire.sent == left
    assert silent.sent == own


async def test_whoever_commits_is_seen_to_live_though_its_clockwork_gets_no_turn(database: Database) -> None:
    async with at_work(database, Wire(), tidies=False) as busy:
        await say(busy, 1)
        since = time.time()

        async def said_and_seen() -> bool:
            await say(busy, 1)
            return await _was_seen(database, busy, since)

        await until(said_and_seen, "another heartbeat")


def _left_behind() -> dict[str, Any]:
    wanted = {"message_id": str(uuid7()), "owner": "gone", "exchange": "stock", "key": "k", "correlation_id": "c"}
    return {**wanted, "sent_at": 1.0, "mandatory": False, "body": b"{}"}


async def _was_sent(wire: Wire, number: int) -> bool:
    return len(wire.sent) >= number
