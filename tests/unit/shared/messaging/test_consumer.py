"""What a lane does with deliveries whose channel is gone."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sqlalchemy import select
from uuid_utils.compat import uuid7

from contracts.base import Envelope
from contracts.jobs import LetterSettled
from shared.messaging import inbox
from shared.messaging.consumer import Lane
from shared.messaging.decode import Delivery
from shared.messaging.handler import lanes_of
from shared.messaging.intake import Lost
from shared.messaging.outbox import Outbox
from shared.messaging.retry import Failures
from shared.persistence.database import Database
from tests.integration.reserving import on_order_placed
from tests.running import an_order, module_of


def delivery(tag: int, *, is_lost: bool) -> Any:
    channel = SimpleNamespace(is_closed=is_lost)
    return SimpleNamespace(delivery_tag=tag, channel=channel, headers={}, timestamp=None)


async def test_of_a_batch_from_two_channels_only_what_is_lost_is_dropped() -> None:
    """What came over the new channel will not come again: a later acknowledgement of many would cover it unseen."""
    handlers = lanes_of("stock", module_of(on_order_placed))["stock"]
    unused: Any = None
    lane = Lane("stock", handlers, unused, Failures("stock", unused, unused, ("1s",), "1"), 10)
    batches: list[list[int]] = []

    async def batch(raws: Sequence[Any]) -> None:
        batches.append([raw.delivery_tag for raw in raws])
        if any(raw.channel.is_closed for raw in raws):
            raise Lost

    lane._work = batch  # type: ignore[method-assign]
    for raw in (delivery(19, is_lost=True), delivery(1, is_lost=False), delivery(2, is_lost=False)):
        await lane.take(raw)
    lane.stop()
    await lane.run()
    assert batches == [[19, 1, 2], [1, 2]]


async def test_of_what_was_done_before_every_copy_is_settled_and_no_attempt_is_left(tmp_path: Path) -> None:
    """Two letters can be one message: each was sent again, and whoever sent it waits for its end."""
    handlers = lanes_of("stock", module_of(on_order_placed))["stock"]
    database, unused = Database(f"sqlite:///{tmp_path}/s.db"), None
    await database.create_all()
    outbox = Outbox("stock", database)
    lane = Lane("stock", handlers, outbox, unused, 10)  # type: ignore[arg-type]
    order, letters = an_order(), [uuid7(), uuid7()]
    envelope = Envelope("m-1", "job-1", order.key, "orders", datetime.now(UTC))
    raws: list[Any] = [SimpleNamespace(exchange="", headers={"replay": f"{letter}/1"}) for letter in letters]
    async with database.transaction() as session:
        await inbox.claim(session, "stock", ["m-1"])
        await inbox.begin_attempts(session, "stock", ["m-1"], "a process that died")
    assert await lane._look_up([Delivery(raw, envelope, order, handlers[order.key]) for raw in raws]) == ({"m-1"}, {})
    assert [LetterSettled.read(message.body).letter_id for message in outbox.hand.waiting] == letters
    async with database.reading() as session:
        assert not (await session.scalars(select(inbox.attempts.c.message_id))).all()
    await database.dispose()
