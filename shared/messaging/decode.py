"""Decodes deliveries: finds the contract and the handler of a message, and reads its body and its envelope."""

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from pydantic import ValidationError

from contracts.base import Envelope, Message, complaint
from contracts.broker import RETURNS, routes_to
from contracts.flow import BY_KEY, FLOW, SHOP
from shared.messaging.amqp.incoming import MESSAGE_LIMIT, PROBLEM, Oversized, Unreadable
from shared.messaging.handler import Handler, Poison
from shared.messaging.intake import IncomingMessage

SENT_BY = "sent_by"
"""The header in which the kernel stores the original sender when it sends a copy of a message to its lane."""
_REPLAY = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/([1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as it was delivered, read and matched with its handler."""

    raw: IncomingMessage
    envelope: Envelope
    message: Message
    handler: Handler

    def subject(self) -> dict[str, str]:
        """The ids for log lines: the resource of the job that this message starts; empty if it starts none."""
        if self.envelope.message_id != self.envelope.correlation_id:
            return {}
        return {name: str(value) for name, value in self.message if isinstance(value, UUID)}


def decode(raw: IncomingMessage, lane: str, handlers: Mapping[str, Handler]) -> Delivery:
    """Read a delivery and find its handler. Raises `Poison` with a reason for people."""
    if isinstance(problem := raw.headers.get(PROBLEM), Unreadable):
        raise Poison(f"its properties or headers cannot be read: {problem!s}")
    if isinstance(raw.body, Oversized):
        size = json.loads(raw.body)["oversized"]["bytes"]
        raise Poison(f"too large: {size:,} bytes, where a message has at most {MESSAGE_LIMIT:,}")
    key = key_of(raw)
    contract = BY_KEY.get(key)
    if contract is None:
        raise Poison(f"unknown message {key!r}: no contract has this name and version")
    handler = handlers.get(key)
    if handler is None:
        raise Poison(f"{key!r} is not for lane {lane!r}: contracts/flow.py sends it elsewhere")
    if (raw.exchange or "", raw.routing_key or "") not in routes_to(lane):
        came = f"exchange {raw.exchange!r} under the key {raw.routing_key!r}"
        raise Poison(f"it came by {came}, to which lane {lane!r} is not bound: its sender chose further keys for it")
    try:
        message = contract.read(raw.body)
    except ValidationError as error:
        what = "not JSON" if error.errors()[0]["type"] == "json_invalid" else f"not a valid {key}"
        raise Poison(f"{what}: {reason_of(error)}") from error
    message_id = raw.message_id or message.identity()
    if not message_id:
        raise Poison(f"no message_id: a {key} cannot be told from its copies without one")
    if "\x00" in message_id + (raw.correlation_id or ""):
        raise Poison("a NUL character in message_id or correlation_id: no database stores it")
    headers = raw.headers
    envelope = Envelope(
        message_id=message_id,
        correlation_id=message_id if is_shops(raw) else raw.correlation_id or message_id,
        causation_id=str(headers.get("causation_id") or "") or None,
        key=key,
        sender=raw.app_id or "",
        sent_at=sent_at(raw),
        traceparent=str(headers.get("traceparent") or "") or None,
        attempt=_attempt_of(raw),
        user=user_of(raw),
    )
    return Delivery(raw, envelope, message, handler)


_UNREADABLE = re.compile(
    r"its properties or headers cannot be read|too large: |unknown message |'[^']*' is not for lane "
    r"|it came by exchange |not JSON: |not a valid |no message_id: |a NUL character |reading it failed$"
)


def is_about_reading(reason: str) -> bool:
    """Whether the reason of a dead letter is one of `decode`'s, so that no consumer of the lane can read it."""
    return bool(_UNREADABLE.match(reason))


def reason_of(error: BaseException) -> str:
    """A failure in a sentence for people. For invalid content, it names the field and the fault, without the value."""
    if isinstance(error, ValidationError):
        problems = error.errors(include_url=False, include_input=False)
        shown = [f"{'.'.join(map(str, p['loc'])) or 'body'}: {complaint(p)}" for p in problems[:5]]
        return "; ".join(shown) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
    said = str(error).encode("utf-8", "replace").decode()  # the answer of a server may be bytes
    return said or type(error).__name__


def key_of(raw: IncomingMessage) -> str:
    """The name of a message: the routing key if its sender published it, because the broker checks that against
    permissions; `type` if the kernel sent it to its lane again."""
    return (raw.type if comes_back(raw) else raw.routing_key) or ""


def comes_back(raw: IncomingMessage) -> bool:
    """Whether a message returns to its lane: from a retry queue, or sent by an administrator. No other user may publish
    to these exchanges, so the headers of the kernel can be trusted."""
    return raw.exchange in ("", None, RETURNS)


def is_shops(raw: IncomingMessage) -> bool:
    """Whether a shop may have sent the message. A shop's message always starts a job of its own."""
    contract = None if comes_back(raw) else BY_KEY.get(key_of(raw))
    return contract is not None and SHOP in FLOW[contract].senders


def replay_of(raw: IncomingMessage) -> tuple[UUID, int] | None:
    """The id of a dead letter that was sent again, and how often it was sent. Only a message that `comes_back` can be
    one, because any sender can set the header."""
    return replay_in(raw.headers) if comes_back(raw) else None


def replay_in(headers: Mapping[str, object]) -> tuple[UUID, int] | None:
    """The value of the header `replay`, if it is valid."""
    header = headers.get("replay")
    found = _REPLAY.fullmatch(header) if isinstance(header, str) else None
    return (UUID(found[1]), int(found[2])) if found else None


def sent_at(raw: IncomingMessage) -> datetime:
    """The time at which a message was sent, from CloudEvents' attribute, because AMQP's timestamp has whole seconds."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        exact = datetime.fromisoformat(str(raw.headers.get("cloudEvents_time")))
        if exact.tzinfo:
            return exact.astimezone(UTC)
    return raw.timestamp or datetime.now(UTC)


def _attempt_of(raw: IncomingMessage) -> int:
    attempt = raw.headers.get("attempt") if comes_back(raw) else 1
    return attempt if isinstance(attempt, int) and attempt > 0 else 1


def user_of(raw: IncomingMessage) -> str | None:
    """The broker user that sent a message; see `Envelope.user`."""
    if comes_back(raw):
        kept = raw.headers.get(SENT_BY)
        return kept if isinstance(kept, str) else None
    return raw.user_id or ""
