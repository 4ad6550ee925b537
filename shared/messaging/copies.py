"""A copy of a message on its way out of its lane: what it keeps of the original, and what is written on it.

A copy goes to a retry queue or to the dead letters, and both can send it to its lane again. So nothing that its sender
claimed about failures is kept, and nothing that the broker would misread.
"""

import socket
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal

from contracts.base import Envelope, Message
from shared.messaging.amqp.incoming import PROBLEM, Oversized
from shared.messaging.decode import SENT_BY, comes_back, is_shops, key_of, reason_of, replay_of, user_of
from shared.messaging.handler import Poison
from shared.messaging.intake import IncomingMessage
from shared.messaging.publisher import Properties

TRACEBACK_LINES = 20
HEADER_BYTES = 2_000
HEADERS_BYTES = 32_000  # all of a message's must fit into one frame, ours too
# The broker's own marks. Sent on, `x-death` would make it see a cycle and drop the message without a word.
BROKER_HEADERS = ("x-death", "x-first-death", "x-last-death", "x-delivery-count", "x-acquired-count")
# What the kernel and deadletters write about a message; on one that came through an exchange, anybody may have.
CLAIMS = ("failure_", "attempt", "edited_from")
# Further routing keys: a sender would reach queues through our copy that it may not reach itself.
SENDER_SELECTED = ("CC", "BCC")


@dataclass(frozen=True, slots=True)
class Copy:
    """A message on its way out of its lane, to a retry queue or to the dead letters, with more headers.

    A copy has no envelope if nobody can read the message, and no outcome if the message is only put off. `report` is
    the event for the message's job, caused by the envelope `cause`.
    """

    raw: IncomingMessage
    envelope: Envelope | None
    exchange: str
    headers: dict[str, Any]
    outcome: Literal["retried", "dead_lettered"] | None = None
    about: dict[str, str] = field(default_factory=dict)
    cause: Envelope | None = None
    report: Message | None = None

    def fate(self) -> tuple[object, ...]:
        """Equal for copies of one message that go the same way. A broker that is silent in an alarm is sent the same
        copy again and again, and has all of them afterwards."""
        if self.envelope is None:
            return (id(self),)
        return self.exchange, self.envelope.message_id, self.envelope.attempt, replay_of(self.raw)

    def properties(self) -> Properties:
        """Its own, as far as they can be believed, and the headers."""
        return copied(self.raw, self.envelope, self.headers)


def copied(
    raw: IncomingMessage, envelope: Envelope | None = None, more: Mapping[str, Any] = MappingProxyType({})
) -> Properties:
    """The properties of a message's copy on its way back to its lane: what can be believed of its own, and more
    headers. It has no envelope if it was not read."""
    return Properties(
        message_id=envelope.message_id if envelope else raw.message_id,
        correlation_id=envelope.correlation_id if envelope else job_of(raw),
        message_type=envelope.key if envelope else key_of(raw),
        app_id=raw.app_id,
        timestamp=raw.timestamp,
        content_type="application/json" if isinstance(raw.body, Oversized) else raw.content_type or "application/json",
        delivery_mode=2,
        headers=sendable(without_claims(raw)) | dict(more),
    )


def without_claims(raw: IncomingMessage) -> dict[str, Any]:
    """A message's headers, without those by which a sender makes it look like one that failed before or was sent again,
    and without what kept us from reading it: the copy's properties are ours."""
    left = {PROBLEM, SENT_BY} if replay_of(raw) else {PROBLEM, SENT_BY, "replay"}
    left |= {name for name in raw.headers if not comes_back(raw) and name.startswith(CLAIMS)}
    user = user_of(raw)
    own = {} if user is None else {SENT_BY: user}
    return {name: value for name, value in raw.headers.items() if name not in left} | own


def job_of(raw: IncomingMessage) -> str | None:
    """The job that a message belongs to that cannot be read, as if it could."""
    return raw.message_id if is_shops(raw) else raw.correlation_id


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
