"""Messages that no decent client sends: their properties are put on the wire byte by byte."""

import struct

from aio_pika.abc import AbstractChannel
from pamqp.commands import Basic

# Bits of the property flags, and the order in which properties follow (AMQP 0-9-1, 4.2.6.1).
_FLAGS = {
    "content_type": 15,
    "content_encoding": 14,
    "headers": 13,
    "delivery_mode": 12,
    "priority": 11,
    "correlation_id": 10,
    "reply_to": 9,
    "expiration": 8,
    "message_id": 7,
    "timestamp": 6,
    "type": 5,
    "user_id": 4,
    "app_id": 3,
}


class RawProperties(Basic.Properties):
    """Properties that are already bytes: `type=short(b"…")`, `timestamp=struct.pack(">Q", 2**63)`."""

    def __init__(self, **encoded: bytes) -> None:
        super().__init__(delivery_mode=2, message_id="not sent")
        self._encoded = encoded

    def marshal(self) -> bytes:
        flags = sum(1 << _FLAGS[name] for name in self._encoded)
        return struct.pack(">H", flags) + b"".join(self._encoded[name] for name in _FLAGS if name in self._encoded)


def short(value: bytes) -> bytes:
    """A short string: at most 255 bytes."""
    return bytes([len(value)]) + value


def table(**fields: bytes) -> bytes:
    """A field table; each value starts with its type's letter."""
    return table_of({name.encode(): value for name, value in fields.items()})


def table_of(fields: dict[bytes, bytes]) -> bytes:
    """The same with names that are no text."""
    content = b"".join(short(name) + value for name, value in fields.items())
    return struct.pack(">I", len(content)) + content


async def publish_raw(channel: AbstractChannel, body: bytes, exchange: str, key: str, **encoded: bytes) -> None:
    """Publish with such properties, confirmed. Raises what the broker says against it."""
    underlay = await channel.get_underlay_channel()
    await underlay.basic_publish(body, exchange=exchange, routing_key=key, properties=RawProperties(**encoded))
