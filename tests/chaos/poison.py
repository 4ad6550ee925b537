"""Messages that no lane can do anything with: each must become one dead letter, and hurt nobody else."""

import json
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import aio_pika
from uuid_utils.compat import uuid7

from contracts.broker import queue_of
from contracts.email import DeliverMail
from contracts.orders import CancelOrder, OrderPlaced
from tests.integration.hostile import publish_raw, short, table
from tests.running import an_order

Channel = aio_pika.abc.AbstractChannel
Kind = Callable[[Channel, str], Awaitable[None]]
KINDS: list[Kind] = []
"""Each publishes one, confirmed, which carries a mark in its body and is given up at once."""


def kind(of: Kind) -> Kind:
    KINDS.append(of)
    return of


@kind
async def not_json(channel: Channel, mark: str) -> None:
    await _send(channel, f"{mark} {{".encode(), "commands", "order.place.v1", message_id=str(uuid7()))


@kind
async def a_wrong_schema(channel: Channel, mark: str) -> None:
    body = {"order_id": 7, "mark": mark}
    await _send(channel, body, "commands", "order.place.v1", message_id=str(uuid7()))


@kind
async def no_id(channel: Channel, mark: str) -> None:
    """Of a message that cannot be told from its copies by what is in it. (aiormq would make an id up.)"""
    body = an_order().model_dump(mode="json") | {"mark": mark}
    await publish_raw(channel, json.dumps(body).encode(), "", queue_of("stock"), type=short(OrderPlaced.key.encode()))


@kind
async def an_unknown_key(channel: Channel, mark: str) -> None:
    await _to_lane(channel, mark, "stock", "order.burnt.v1")


@kind
async def a_wrong_version(channel: Channel, mark: str) -> None:
    await _to_lane(channel, mark, "orders", "order.place.v9")


@kind
async def the_wrong_lane(channel: Channel, mark: str) -> None:
    await _to_lane(channel, mark, "email", "order.place.v1")


@kind
async def a_nul_in_its_id(channel: Channel, mark: str) -> None:
    body = an_order().model_dump(mode="json") | {"mark": mark}
    await _send(channel, body, "", queue_of("stock"), type=OrderPlaced.key, message_id="a\x00b")


@kind
async def a_timestamp_beyond_all_years(channel: Channel, mark: str) -> None:
    await publish_raw(channel, mark.encode(), "", queue_of("orders"), timestamp=struct.pack(">Q", 2**63))


@kind
async def properties_that_are_no_text(channel: Channel, mark: str) -> None:
    await publish_raw(channel, mark.encode(), "", queue_of("reports"), message_id=short(b"\xff\xfe"))


@kind
async def a_header_that_is_no_text(channel: Channel, mark: str) -> None:
    headers = table(note=b"S" + struct.pack(">I", 2) + b"\xff\xfe")
    await publish_raw(channel, mark.encode(), "", queue_of("gateway"), headers=headers)


@kind
async def huge_headers(channel: Channel, mark: str) -> None:
    headers = {f"h{n}": "x" * 9_000 for n in range(10)}
    await _send(channel, f"{mark} [".encode(), "", queue_of("stock"), type="order.placed.v1", headers=headers)


@kind
async def a_mail_that_nobody_wrote(channel: Channel, mark: str) -> None:
    body = DeliverMail(mail_id=uuid7()).model_dump(mode="json") | {"mark": mark}
    await _send(channel, body, DeliverMail.exchange, DeliverMail.key, message_id=str(uuid7()))


async def an_order_that_is_never_placed(channel: Channel, mark: str) -> None:
    """Somebody cancels it. It goes up the whole ladder first, as its beginning could be late."""
    body = CancelOrder(order_id=uuid7()).model_dump(mode="json") | {"mark": mark}
    await _send(channel, body, CancelOrder.exchange, CancelOrder.key, message_id=str(uuid7()))


async def _to_lane(channel: Channel, mark: str, lane: str, key: str) -> None:
    await _send(channel, {"mark": mark}, "", queue_of(lane), type=key, message_id=str(uuid7()))


async def _send(channel: Channel, body: Any, exchange: str, key: str, **properties: Any) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"chaos": "leave alone", **properties.pop("headers", {})}
    message = aio_pika.Message(content, delivery_mode=2, headers=headers, **properties)
    target = await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
    await target.publish(message, key, mandatory=True)
