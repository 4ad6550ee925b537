"""What a sender puts on a message cannot end the connection that it is read from.

RabbitMQ passes on properties that pamqp refuses: a timestamp beyond the year 9999, a short string that is not UTF-8.
pamqp raises where the connection is read. The connection would end, the message would come again with all its
neighbours, and so on until its delivery limit. With this module the message arrives without properties and says what
was wrong. A body that is too large is taken off the wire and not kept.

Importing the module installs it, for all connections of the process.
"""

import hashlib
import json
from typing import Any

import aiormq
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from pamqp.header import ContentHeader

PROBLEM = "malote-unreadable"
"""The header that says what was wrong, in an `Unreadable`."""
MESSAGE_LIMIT = 1024 * 1024
"""Bytes of a message's body at the most. Of a larger one only its size and its hash are kept, whatever the broker lets
through."""
_unmarshal, _read_content = ContentHeader.unmarshal, aiormq.Channel._read_content


class Oversized(bytes):
    """What stands for a body above `MESSAGE_LIMIT`: JSON. A type of its own, as any body can have such content."""


class Unreadable(str):
    """Says what was wrong. Only this process makes one: a header of the same name that a sender wrote is text."""

    __slots__ = ()


def _unmarshal_anything(header: ContentHeader, data: bytes) -> None:
    try:
        _unmarshal(header, data)
    except Exception as error:
        header.body_size = int.from_bytes(data[4:12], "big")
        header.properties = Basic.Properties(headers={PROBLEM: Unreadable(str(error) or type(error).__name__)})


async def _read_bounded(channel: Any, frame: Any, header: ContentHeader) -> DeliveredMessage:
    """Take a body that is too large off the wire frame by frame, and keep none of it."""
    if header.body_size <= MESSAGE_LIMIT:
        return await _read_content(channel, frame, header)
    digest, taken = hashlib.sha256(), 0
    while taken < header.body_size:
        content = await channel._Channel__get_content_frame()
        digest.update(content.value)
        taken += len(content.value)
    stub = json.dumps({"oversized": {"bytes": taken, "sha256": digest.hexdigest()}})
    return DeliveredMessage(delivery=frame, header=header, body=Oversized(stub.encode()), channel=channel)


aiormq.Channel._read_content = _read_bounded  # type: ignore[method-assign,assignment]
ContentHeader.unmarshal = _unmarshal_anything  # type: ignore[method-assign,assignment]
