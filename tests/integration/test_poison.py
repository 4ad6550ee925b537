"""What goes to the dead letters goes there once and in batches, and what is good goes past it."""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest
from uuid_utils.compat import uuid7

from contracts.jobs import JobFailed
from contracts.orders import CancelOrder, OrderPlaced, PlaceOrder
from contracts.stock import StockReserved
from services.stock.store import Reservation
from shared.messaging import inbox
from shared.messaging.amqp import confirms
from shared.messaging.batch import Batch
from shared.messaging.decode import MESSAGE_LIMIT, Delivery
from shared.messaging.forwarding import Forwarding
from shared.messaging.handler import Poison, on
from shared.messaging.unit import UnitOfWork
from tests.integration.reserving import RESERVED, count, on_order_placed
from tests.running import Broker, an_order, module_of, reserved, running, until


async def redelivered(broker: Broker, queue: str) -> None:
    """What waits there has been in somebody's hand before."""
    connection = await broker.another()
    channel = await connection.channel()
    taken = await channel.get_queue((await broker.queue(queue)).name)
    number = await broker.depth(queue)
    for _ in range(number):
        await taken.get()
    await connection.close()
    await until(lambda: _waits(broker, queue, number), "all to be given back")


async def _waits(broker: Broker, queue: str, number: int) -> bool:
    return await broker.depth(queue) == number


async def only_letter(broker: Broker, queue: str = "stock.dlq") -> Any:
    letter = await broker.take(queue)
    assert await broker.depth(queue) == 0
    return letter


# -- one letter -------------------------------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, times: int) -> list[int]:
    """Let an asynchronous function of the kernel's own fail so many times."""
    left, original = [1] * times, getattr(owner, name)

    async def fail(*arguments: Any) -> Any:
        if left:
            left.pop()
            raise RuntimeError("an error of the kernel's own")
        return await original(*arguments)

    monkeypatch.setattr(owner, name, fail)
    return left


async def test_an_error_of_the_kernels_own_after_a_letter_was_sent_sends_no_second_one(
    broker: Broker, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = await broker.spy(RESERVED)
    left = failing(monkeypatch, Forwarding, "_record", 3)
    async with running("stock", broker.url, f"sqlite:///{tmp_path}/s.db", module_of(on_order_placed)):
        await broker.publish(an_order([("POISON", 1)]), id_="poison")
        await broker.publish(an_order())
        await spy.collect(1)
        assert (await broker.take("stock.dlq")).message_id == "poison"
        await until(lambda: _waits(broker, "stock", 0), "an empty lane")
    assert not left
    assert await broker.depth("stock.dlq") == 0


async def test_an_error_of_the_kernels_own_over_others_of_a_batch_buries_what_cannot_be_read_once(
    broker: Broker, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await broker.send(b"{", "orders", OrderPlaced.key, message_id="unreadable")
    await broker.publish(an_order())
    await redelivered(broker, "stock")
    left = failing(monkeypatch, inbox, "done", 3)
    async with running("stock", broker.url, f"sqlite:///{tmp_path}/s.db", module_of(on_order_placed)) as stock:
        await until(lambda: _counts(stock, Reservation, 1), "the good one to be done")
        await until(lambda: _has(broker, "stock.dlq", 1), "the letter")
    assert not left
    assert await broker.depth("stock") == 0
    await only_letter(broker)


async def _counts(service: Any, table: Any, number: int) -> bool:
    return await count(service, table) == number


async def _has(broker: Broker, queue: str, number: int) -> bool:
    return await broker.depth(queue) >= number


def with_one_at_a_gate(gate: asyncio.Event, began: asyncio.Event) -> ModuleType:
    @on(OrderPlaced)
    async def on_order_placed(order: OrderPlaced, unit: UnitOfWork) -> StockReserved:
        if order.lines[0].sku == "POISON":
            raise Poison("nobody can reserve this")
        if order.lines[0].sku == "SLOW":
            began.set()
            await gate.wait()
        return reserved(order.order_id)

    return module_of(on_order_placed)


async def test_a_lane_that_is_cut_short_again_and_again_sends_each_letter_once_and_counts_nothing(
    broker: Broker, database_url: str
) -> None:
    """Each time while a good message of the same batch is at work, and from the second time on as a redelivered one."""
    await broker.send(b"{", "orders", OrderPlaced.key, message_id="unreadable")
    await broker.publish(an_order([("POISON", 1)]), id_="poison")
    await broker.publish(an_order([("SLOW", 1)]), id_="slow")
    gate = asyncio.Event()
    for _ in range(4):
        began = asyncio.Event()
        handlers = with_one_at_a_gate(gate, began)
        async with running("stock", broker.url, database_url, handlers, grace_seconds=0.01) as stock:
            await asyncio.wait_for(began.wait(), 20)
        assert await tries_of(stock.settings.database, "slow") <= 0, "no process died of it"
    gate.set()
    async with running("stock", broker.url, database_url, handlers):
        await until(lambda: _waits(broker, "stock", 0), "an empty lane")
    assert {(await broker.take("stock.dlq")).message_id for _ in range(2)} == {"unreadable", "poison"}
    assert await broker.depth("stock.dlq") == 0


async def tries_of(url: str, message_id: str) -> int:
    from sqlalchemy import select

    from shared.persistence.database import Database

    database = Database(url)
    async with database.reading() as session:
        found = select(inbox.attempts.c.tries).where(inbox.attempts.c.message_id == message_id)
        tries = await session.scalar(found) or 0
    await database.dispose()
    return int(tries)


# -- many letters -----------------------------------------------------------------------------------------------------


async def test_a_flood_of_poison_is_buried_in_batches_whatever_ids_it_has_and_what_is_good_gets_through(
    broker: Broker, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[int] = []
    original = confirms._publish

    async def publish(channel: Any, messages: Sequence[Any], seconds: float) -> Any:
        if messages[0].exchange == "dead-letters":
            rounds.append(len(messages))
        return await original(channel, messages, seconds)

    monkeypatch.setattr(confirms, "_publish", publish)
    spy = await broker.spy(RESERVED)
    bad = an_order([("POISON", 1)]).model_dump_json().encode()
    sends = [broker.send(b"{", "orders", OrderPlaced.key, message_id="the-same") for _ in range(200)]
    sends += [broker.send(b"{", "orders", OrderPlaced.key) for _ in range(100)]
    sends += [broker.send(bad, "orders", OrderPlaced.key, message_id=f"m{number}") for number in range(100)]
    await asyncio.gather(*sends)
    await broker.publish(an_order())
    async with running("stock", broker.url, f"sqlite:///{tmp_path}/s.db", module_of(on_order_placed)):
        await spy.collect(1)
        await until(lambda: _has(broker, "stock.dlq", 400), "all letters")
    assert await broker.depth("stock") == 0
    assert await broker.depth("stock.dlq") == sum(rounds) == 400
    assert len(rounds) < 100  # many at once; how many, the machine decides: they come as fast as it delivers them


async def test_good_messages_among_many_bad_ones_cost_one_more_try_of_their_batch(
    broker: Broker, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed: list[int] = []
    commit = Batch._commit

    async def counted(processor: Batch, deliveries: Sequence[Delivery]) -> None:
        await commit(processor, deliveries)
        committed.append(len(deliveries))

    monkeypatch.setattr(Batch, "_commit", counted)
    for number in range(100):
        await broker.publish(an_order([("POISON" if number % 2 else "A", 1)]))
    async with running("stock", broker.url, f"sqlite:///{tmp_path}/s.db", module_of(on_order_placed)):
        await until(lambda: _has(broker, "stock.dlq", 50), "all letters")
        await until(lambda: _waits(broker, "stock", 0), "an empty lane")
    assert sum(committed) == 50
    assert len(committed) < 10, "one commit for what came together, and not one for each"


# -- large ones -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", ["stock", "stock.dlq"])
async def test_a_message_that_is_too_large_is_kept_as_its_size_and_hash(
    broker: Broker, tmp_path: Any, queue: str
) -> None:
    """By the lane, and by whoever collects what the broker itself has put among the dead letters."""
    body = b'{"order_id": "' + b"x" * 3 * MESSAGE_LIMIT
    kept = {"oversized": {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}}
    if queue == "stock.dlq":
        received = await broker.queue(queue)
        await broker.send(body, "dead-letters", "stock", message_id="large")
        message = await until(lambda: received.get(fail=False), "the letter")
        assert json.loads(message.body) == kept
        return
    spy = await broker.spy(RESERVED)
    async with running("stock", broker.url, f"sqlite:///{tmp_path}/s.db", module_of(on_order_placed)):
        for _ in range(2):
            await broker.send(body, "orders", OrderPlaced.key, message_id="large", headers={"till": "7"})
        await broker.publish(an_order())
        await spy.collect(1)
        for _ in range(2):
            letter = await broker.take("stock.dlq")
            assert (
                letter.headers["failure_reason"]
                == f"too large: {len(body):,} bytes, where a message has at most 1,048,576"
            )
            assert (letter.message_id, letter.headers["till"], letter.content_type) == (
                "large",
                "7",
                "application/json",
            )
            assert json.loads(letter.body) == kept


async def test_the_largest_message_that_is_allowed_is_read(broker: Broker, tmp_path: Any) -> None:
    spy = await broker.spy(RESERVED)
    body = an_order().model_dump_json().encode()
    async with running("stock", broker.url, f"sqlite:///{tmp_path}/s.db", module_of(on_order_placed)):
        await broker.send(body.ljust(MESSAGE_LIMIT), "orders", OrderPlaced.key, message_id="large")
        await spy.collect(1)


# -- the jobs that stand or fall with them ----------------------------------------------------------------------------


async def test_a_command_that_nobody_can_read_ends_its_job(broker: Broker, tmp_path: Any) -> None:
    """Others' have no job: an event's would not be the one that failed, an id that is no UUID is no job's, and a shop
    can take the id of somebody else's job for its own order."""
    ended = await broker.spy(("jobs", JobFailed.key))
    job, other = str(uuid7()), str(uuid7())
    async with running("orders", broker.url, f"sqlite:///{tmp_path}/o.db"):
        await broker.send(b"{", "commands", PlaceOrder.key, message_id="a shop's own number")
        await broker.send(b"{", "commands", PlaceOrder.key, message_id=str(uuid7()))
        await broker.send(b"{", "stock", StockReserved.key, message_id=other, correlation_id=other)
        await broker.send(b"[" * 200, "commands", CancelOrder.key, message_id=job, correlation_id=job)
        [failed] = await ended.collect(1)
        assert await broker.take("orders.dlq")
        await until(lambda: _has(broker, "orders.dlq", 3), "the other letters")
    await ended.collect(1)
    assert [message.correlation_id for message in ended.seen] == [job]
    assert failed["reason"] == "dead_lettered"
    assert failed["detail"].startswith("not JSON")
