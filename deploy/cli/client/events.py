"""Reads lines and server-sent events from a stream of text."""

import json
from collections.abc import AsyncIterator
from typing import Any


async def server_sent(chunks: AsyncIterator[str]) -> AsyncIterator[tuple[str, str, Any]]:
    """Each event's name, id and data (read as JSON), as https://html.spec.whatwg.org/#server-sent-events has it."""
    event, last, data = "message", "", list[str]()
    async for line in lines(chunks):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            event = value
        elif name == "id":
            last = value
        elif name == "data":
            data.append(value)
        elif not line:
            if data:
                yield event, last, json.loads("\n".join(data))
            event, data = "message", []


async def lines(chunks: AsyncIterator[str]) -> AsyncIterator[str]:
    """Whole lines. Only a line feed ends a line: the name of a customer may contain a line separator of Unicode."""
    begun = ""
    async for chunk in chunks:
        *whole, begun = (begun + chunk).split("\n")
        for line in whole:
            yield line.removesuffix("\r")
