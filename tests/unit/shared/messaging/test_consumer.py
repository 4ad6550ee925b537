"""What a consumer does with deliveries whose channel is gone, and how it acknowledges the others."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import select
from uuid_utils.compat import uuid7

from contracts.base import Envelope
from contracts.jobs import LetterSettled
from shared.messaging import inbox
from shared.messaging.batch import Batch
from shared.messaging.consumer import Consumer
from shared.messaging.decode import Delivery
from shared.messaging.handler import lanes_of
from shared.messaging.intake import Intake, Lost
from shared.messaging.lane import Lane
from shared.messaging.outbox import Outbox
from shared.messaging.retry import Failures
from shared.persistence.database import Database
from tests.integration.reserving import on_order_placed
from tests.running import an_order, module_of


class Channel:
    """Writes down what is acknowledged."""

    def __init__(self, *, is_closed: bool = False) -> None:
        self.is_closed = is_closed
        self.acknowledged: list[tuple[int, bool]] = []

    async def basic_ack(self, tag: int, *, multiple: bool, wait: bool) -> None:
        self.acknowledged.append((tag, multiple))


def delivery(tag: int, channel: Channel) -> Any:
    return SimpleNamespace(delivery_tag=tag, channel=channel, headers={}, timestamp=None)


def a_lane(outbox: Any = None) -> Lane:
    handlers = lanes_of("stock", module_of(on_order_placed))["stock"]
    unused: Any = None
    return Lane("stock", handlers, outbox, unused, Failures("stock", ("1s",), "1"))


async def test_of_a_batch_from_two_channels_only_what_is_lost_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came over the new channel will not come again: a later acknowledgement of many would cover it unseen."""
    lane = a_lane()
    batches: list[list[int]] = []

    async def work(_: Batch, raws: Any) -> None:
        batches.append([raw.delivery_tag for raw in raws])
        if any(raw.channel.is_closed for raw in raws):
            raise Lost

    monkeypatch.setattr(Batch, "work", work)
    consumer = Consumer("stock", lane.handlers, Batch(lane, 10), lane.intake, lane.pause, 20, 60.0)
    lost, living = Channel(is_closed=True), Channel()
    for raw in (delivery(19, lost), delivery(1, living), delivery(2, living)):
        await consumer.take(raw)
    consumer.stop()
    await consumer.run()
    assert batches == [[19, 1, 2], [1, 2]]


async def test_one_acknowledgement_covers_no_delivery_that_has_no_outcome() -> None:
    intake, channel, other = Intake(), Channel(), Channel()
    raws = [delivery(tag, channel) for tag in range(1, 7)]
    for raw in (delivery(1, other), *raws):
        await intake.take(raw)
    await intake.acknowledge([raws[1], raws[2]])
    assert channel.acknowledged == [(2, False), (3, False)], "the first is not done"
    await intake.acknowledge([raws[0]])
    await intake.acknowledge([raws[4], raws[3]])
    assert channel.acknowledged[2:] == [(1, True), (5, True)]
    assert [raw.delivery_tag for raw, _ in intake.unanswered()] == [1, 6]
    channel.is_closed = True
    with pytest.raises(Lost):
        await intake.acknowledge([raws[5]])


async def test_of_what_was_done_before_every_copy_is_settled_and_no_attempt_is_left(tmp_path: Path) -> None:
    """Two letters can be one message: each was sent again, and whoever sent it waits for its end."""
    database = Database(f"sqlite:///{tmp_path}/s.db")
    await database.create_all()
    outbox = Outbox("stock", database)
    lane = a_lane(outbox)
    order, letters = an_order(), [uuid7(), uuid7()]
    envelope = Envelope("m-1", "job-1", order.key, "orders", datetime.now(UTC))
    raws: list[Any] = [SimpleNamespace(exchange="", headers={"replay": f"{letter}/1"}) for letter in letters]
    async with database.transaction() as session:
        await inbox.claim(session, "stock", ["m-1"])
        await inbox.begin_attempts(session, "stock", ["m-1"], "a process that died")
    deliveries = [Delivery(raw, envelope, order, lane.handlers[order.key]) for raw in raws]
    assert await Batch(lane, 10)._look_up(deliveries) == ({"m-1"}, {})
    assert [LetterSettled.read(message.body).letter_id for message in outbox.hand.waiting] == letters
    async with database.reading() as session:
        assert not (await session.scalars(select(inbox.attempts.c.message_id))).all()
    await database.dispose()
