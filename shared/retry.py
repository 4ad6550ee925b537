"""What becomes of a message that failed: up the ladder of delays, then to its lane's dead letters."""

import socket
import traceback
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

TRACEBACK_LINES = 20
HEADER_BYTES = 2_000
HEADERS_BYTES = 32_000  # all of a message's must fit into one frame, ours too
# The broker's own marks. Sent on, `x-death` would make it see a cycle and drop the message without a word.
BROKER_HEADERS = ("x-death", "x-first-death", "x-last-death", "x-delivery-count", "x-acquired-count")
# Further routing keys: a sender would reach queues through our copy that it may not reach itself.
SENDER_SELECTED = ("CC", "BCC")


class Poison(Exception):
    """Raised for a message that no retry can help: it goes to the dead letters at once."""


class NotYet(Exception):
    """Raised by a handler that meets a message before what it builds on: it is retried."""


def reason_of(error: BaseException) -> str:
    """A failure in a sentence for people; for bad content which field is wrong and why, without its value."""
    if isinstance(error, ValidationError):
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        shown = [f"{'.'.join(map(str, p['loc'])) or 'body'}: {p['msg']}" for p in problems[:5]]
        return "; ".join(shown) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
    return str(error) or type(error).__name__


def sendable(headers: dict[str, Any]) -> dict[str, Any]:
    """A message's headers without the broker's marks, and without what is too long to be sent on with ours.

    What is neither text nor a whole number is written out: not all that can be received can be sent again.
    """
    kept: dict[str, Any] = {}
    room = HEADERS_BYTES
    for name, value in headers.items():
        plain = value if isinstance(value, str | int) else repr(value)
        size = len(name.encode()) + len(str(plain).encode())
        if size <= min(HEADER_BYTES, room) and name not in SENDER_SELECTED and not name.startswith(BROKER_HEADERS):
            kept[name] = plain
            room -= size
    return kept


def failure_headers(
    headers: dict[str, Any], reason: str, error: BaseException | None, attempt: int, service: str, version: str
) -> dict[str, Any]:
    """The headers of a message that failed: its own, without the broker's marks, and what happened to it."""
    now = datetime.now(UTC).isoformat()
    kept = sendable(headers)
    lines = traceback.format_exception(error)[-TRACEBACK_LINES:] if error and not isinstance(error, Poison) else []
    return {
        **kept,
        "failure_reason": _short(reason),
        "failure_exception": type(error).__name__ if error else "",
        "failure_message": _short(reason_of(error)) if error else "",
        "failure_traceback": _short("".join(lines), from_end=True),
        "failure_attempts": attempt,
        "failure_first_at": kept.get("failure_first_at", now),
        "failure_last_at": now,
        "failure_service": service,
        "failure_version": version,
        "failure_host": socket.gethostname(),
    }


def _short(text: str, *, from_end: bool = False) -> str:
    clean = text.replace("\x00", "\\0").encode("utf-8", "replace")
    return (clean[-HEADER_BYTES:] if from_end else clean[:HEADER_BYTES]).decode("utf-8", "ignore")
