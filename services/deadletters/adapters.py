"""Dead letters on the broker: reads them from the dead-letter queues, and sends them back to their lanes."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import orjson
from uuid_utils.compat import uuid7

from contracts.base import Envelope
from contracts.broker import retry_exchange
from contracts.flow import BY_KEY, FLOW, LANES, SHOP
from services.deadletters import domain
from services.deadletters.store.letters import Content, Group, Letter
from shared.messaging.copies import sendable
from shared.messaging.decode import SENT_BY, replay_in, user_of
from shared.messaging.intake import IncomingMessage
from shared.messaging.publisher import Outgoing
from shared.observability.metrics import UNREADABLE
from shared.persistence.clock import now

MARKS = ("replay", "attempt")
"""Headers about the handling of a message, like those of its failure. They are removed before it is sent again."""


@dataclass(frozen=True, slots=True)
class Found:
    """A dead letter as it arrived. `key` identifies the delivery, so that a repeated delivery is recognised.
    `replay` is set if deadletters sent the message: the id of the letter, and how many times it was sent by then."""

    key: str
    letter: Letter
    content: Content
    group: Group
    replay: tuple[UUID, int] | None


def read(raw: IncomingMessage, lane: str) -> Found:
    """Read any message. No content, however broken, prevents it from being stored."""
    headers = _plain(raw.headers)
    if domain.is_first_hand(raw.headers):
        headers[SENT_BY] = domain.clean(user_of(raw) or "")
    failed = domain.failure(raw.headers, now())
    message = domain.key_of(raw.headers, raw.type)
    group = Group(
        id=domain.group_of(lane, message, failed.reason),
        lane=lane,
        message=message,
        reason=domain.pattern(failed.reason),
    )
    properties = _properties(raw, message, first_hand=domain.is_first_hand(raw.headers))
    letter = Letter(
        id=uuid7(),
        lane=lane,
        message=message,
        group_id=group.id,
        message_id=_short(raw.message_id),
        correlation_id=_short(properties["correlation_id"]),
        order_id=domain.order_of(_json(raw.body)),
        reason=failed.reason,
        exception=failed.exception,
        attempts=failed.attempts,
        first_at=failed.first_at,
        last_at=failed.last_at,
        service=failed.service,
        version=failed.version,
        host=failed.host,
        size=len(raw.body),
        state="WAITING",
        history=[],
        text=_searchable(raw.message_id, properties["correlation_id"], failed.reason, raw.body),
    )
    content = Content(
        letter_id=letter.id, body=raw.body, properties=properties, headers=headers, traceback=failed.traceback
    )
    is_second_hand = not domain.is_first_hand(raw.headers)
    return Found(_key(raw, lane), letter, content, group, replay_in(raw.headers) if is_second_hand else None)


def lane_of(raw: IncomingMessage, lane: str) -> str:
    """The lane of a letter: its routing key. A sender can add routing keys (CC) and so put a letter into the
    dead-letter queues of other lanes; the first key is the one that its permissions allow."""
    key = raw.routing_key or ""
    return key if key in LANES else lane


def _properties(raw: IncomingMessage, message: str, *, first_hand: bool) -> dict[str, Any]:
    """The properties with which a letter is sent again. The `correlation_id` of a shop's command is not trusted."""
    contract = BY_KEY.get(message)
    is_shops = contract is not None and SHOP in FLOW[contract].senders
    return {
        "message_id": raw.message_id,
        "correlation_id": raw.message_id if first_hand and is_shops else raw.correlation_id,
        "message_type": message,
        "app_id": raw.app_id,
        "timestamp": int(raw.timestamp.timestamp()) if raw.timestamp else None,
        "content_type": raw.content_type,
    }


def _key(raw: IncomingMessage, lane: str) -> str:
    mark = domain.brokers_mark(raw.headers)
    told = [lane, raw.message_id, raw.headers.get("failure_last_at"), raw.headers.get("replay")]
    framed = [*(str(part) for part in (*told, mark.get("time"), mark.get("count"))), ""]
    return hashlib.sha256("\x00".join(framed).encode("utf-8", "replace") + raw.body).hexdigest()


def _plain(value: Any, depth: int = 0) -> Any:
    """AMQP values as JSON values. Values that are nested too deep are left out."""
    if depth == domain.DEEPEST:
        return "…"
    if isinstance(value, Mapping):
        return {domain.clean(str(name)): _plain(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, depth + 1) for inner in value]
    if isinstance(value, str):
        return domain.clean(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes | bytearray):
        return domain.clean(value.decode("utf-8", "replace"))
    return value if value is None or isinstance(value, bool | int) else str(value)


def _short(text: str | None) -> str | None:
    return domain.clean(text)[:255] if text else None


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except ValueError:
        return None


def _searchable(message_id: str | None, correlation_id: str | None, reason: str, body: bytes) -> str:
    parts = (message_id, correlation_id, reason, body.decode("utf-8", "replace"))
    return domain.clean("\n".join(filter(None, parts))).casefold()


def shown(body: bytes) -> tuple[Any, Literal["json", "text", "base64"]]:
    """A body for people: as JSON if it is JSON that is not nested too deep, else as text, else as base64."""
    try:
        found = orjson.loads(body)
        if not domain.is_deep(found):
            return found, "json"
    except ValueError:
        pass
    try:
        return body.decode(), "text"
    except ValueError:
        return base64.b64encode(body).decode(), "base64"


# -- sending ----------------------------------------------------------------------------------------------------------


def again(letter: Letter, content: Content, ladder: Sequence[str]) -> Outgoing:
    """The message that sends a letter again to the lane that failed, through the shortest wait queue. If it fails
    again, it is dead-lettered at once, without retries."""
    headers = _own_headers(content) | {"replay": f"{letter.id}/{letter.number}"}
    return _to_lane(letter, content.body, content.properties, headers, ladder)


def instead(letter: Letter, content: Content, message: str, body: Any, ladder: Sequence[str]) -> tuple[UUID, Outgoing]:
    """The id of a new message, and the message, which is sent in the place of a letter and names it."""
    new_id = uuid7()
    properties = content.properties | {
        "message_id": str(new_id),
        "message_type": message,
        "correlation_id": content.properties["correlation_id"] or letter.message_id or str(new_id),
        "timestamp": int(datetime.now(UTC).timestamp()),
        "content_type": "application/json",
    }
    headers = _own_headers(content) | {"causation_id": letter.message_id or "", "edited_from": str(letter.id)}
    for name, value in (("id", str(new_id)), ("type", message)):
        headers |= {f"cloudEvents_{name}": value} if f"cloudEvents_{name}" in headers else {}
    return new_id, _to_lane(letter, json.dumps(body, ensure_ascii=False).encode(), properties, headers, ladder)


def _own_headers(content: Content) -> dict[str, Any]:
    kept = sendable(content.headers).items()
    return {name: value for name, value in kept if name not in MARKS and not name.startswith("failure_")}


def _to_lane(
    letter: Letter, body: bytes, properties: dict[str, Any], headers: dict[str, Any], ladder: Sequence[str]
) -> Outgoing:
    key = letter.message if letter.message in BY_KEY else UNREADABLE
    envelope = Envelope(str(uuid7()), letter.correlation_id or "", key, "deadletters", datetime.now(UTC))
    marked = properties | {"headers": headers | {"attempt": len(ladder) + 1}}
    return Outgoing(envelope, retry_exchange(ladder[0]), body, True, lane=letter.lane, properties=marked)
