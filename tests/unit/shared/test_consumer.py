"""What a lane does with deliveries whose channel is gone."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from shared.consumer import Lane, Lost
from shared.handler import lanes_of
from tests.integration.reserving import on_order_placed
from tests.running import module_of


def delivery(tag: int, *, is_lost: bool) -> Any:
    return SimpleNamespace(delivery_tag=tag, channel=SimpleNamespace(is_closed=is_lost))


async def test_of_a_batch_from_two_channels_only_what_is_lost_is_dropped() -> None:
    """What came over the new channel will not come again: a later acknowledgement of many would cover it unseen."""
    handlers = lanes_of("stock", module_of(on_order_placed))["stock"]
    unused: Any = None
    lane = Lane("stock", handlers, unused, unused, 10)
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
