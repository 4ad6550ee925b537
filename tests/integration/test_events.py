"""`malote events` shows what passes, and leaves the broker as it was."""

import asyncio
import json
from pathlib import Path

import aio_pika
import pytest
from aio_pika.exceptions import PublishError

from deploy.cli import events
from deploy.local.environment import Environment
from deploy.local.management import Management
from deploy.local.rabbitmq import RabbitNode
from shared.messaging.topology import dead_letters_of
from tests.running import Broker, an_order, until


async def test_messages_are_shown_as_they_pass_and_nothing_stays_behind(
    broker: Broker,
    rabbit: RabbitNode,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for variable, value in {
        "AMQP_URL": broker.url, "AMQP_MANAGEMENT_URL": rabbit.management_url, "MALOTE_DATA": str(tmp_path),
    }.items():  # fmt: skip
        monkeypatch.setenv(variable, value)
    here = Environment()
    showing = asyncio.create_task(events._follow(here, ["order.placed.*"], 2, True))
    with Management(here) as api:

        async def is_tracing() -> bool:
            return await asyncio.to_thread(lambda: api.is_tracing() and bool(api.bound_to("amq.rabbitmq.trace")))

        await until(is_tracing, "the broker to copy messages")
        async with await aio_pika.connect(broker.url) as connection:
            strict = await (await connection.channel(on_return_raises=True)).get_exchange("orders", ensure=False)
            with pytest.raises(PublishError):
                await strict.publish(aio_pika.Message(b"{}"), "order.unheard.of.v1")
        order = an_order()
        message_id = await broker.publish(order, correlation_id="job")
        failed = {"failure_message": "no such row"}
        await broker.send(b"{}", "dead-letters", "stock", type="order.placed.v1", headers=failed)
        await asyncio.wait_for(showing, 30)
        first, second = (json.loads(said) for said in capsys.readouterr().out.splitlines())
        assert (first["exchange"], first["key"], first["message_id"]) == ("orders", "order.placed.v1", message_id)
        assert (first["correlation_id"], first["body"]["order_id"]) == ("job", str(order.order_id))
        assert (second["exchange"], second["key"], second["reason"]) == ("dead-letters", "stock", "no such row")
        assert f"order.placed.v1            {order.order_id}" in events.line(first)
        assert "stock → dead-letters: no such row" in events.line(second)
        assert not await asyncio.to_thread(api.is_tracing)
        left = await asyncio.to_thread(api.queues)
        assert not [name for name in left if name.startswith("amq.")]
    assert await broker.depth(dead_letters_of("stock")) == 1, "what is shown is a copy"


@pytest.mark.parametrize(
    ("pattern", "fits", "fits_not"),
    [
        ("order.placed.v1", ["order.placed.v1"], ["order.placed.v12", "orderXplaced.v1"]),
        ("order.*.v1", ["order.placed.v1"], ["order.placed.v2", "order.a.b.v1"]),
        ("order.#", ["order.placed.v1", "order"], ["orders.placed", "stock.low.v1"]),
        ("#", ["anything.at.all", ""], []),
    ],
)
def test_keys_are_named_as_the_broker_has_them(pattern: str, fits: list[str], fits_not: list[str]) -> None:
    import re

    known = re.compile(events._pattern(pattern))
    assert all(known.fullmatch(key) for key in fits)
    assert not any(known.fullmatch(key) for key in fits_not)
