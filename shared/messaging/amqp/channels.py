"""What aiormq's channels know and aio-pika's do not say."""

from typing import Any


def has_consumer(channel: Any, tag: str) -> bool:
    """Whether one of aiormq's channels is open and has a consumer of this tag."""
    return not channel.is_closed and tag in channel.consumers
