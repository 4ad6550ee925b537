"""Which messages a lane can read: checked before an edited message takes the place of a dead letter."""

import json
from collections.abc import Sequence

from pydantic import ValidationError

from contracts.base import complaint
from contracts.flow import BY_KEY, FLOW

Complaint = tuple[str, str, str]
"""A JSON Pointer, a code and a text."""


def complaints(lane: str, message: str, body: object) -> list[Complaint]:
    """The reasons why a lane cannot read a body as a message of that name; empty if it can."""
    contract = BY_KEY.get(message)
    if contract is None or lane not in FLOW[contract].lanes:
        known = ", ".join(sorted(key for key, found in BY_KEY.items() if lane in FLOW[found].lanes))
        return [("/message", "unknown_message", f"{message!r} is not for the lane {lane}; it takes {known}")]
    try:
        contract.read(json.dumps(body).encode())
    except ValidationError as error:
        return [(_pointer(p["loc"]), p["type"], complaint(p)) for p in error.errors(include_url=False)[:20]]
    return []


def _pointer(location: Sequence[str | int]) -> str:
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in ("body", *location))
