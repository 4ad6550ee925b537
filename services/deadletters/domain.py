"""Why a message was dead-lettered, which letters belong together, and what a replay does next."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

from contracts.broker import RETURNS

LONGEST_REASON = 500
DEEPEST = 100
IN_FLIGHT = 2_000
"""The most letters of one replay that are sent and not finished: no more than these wait in a lane that dies."""
AT_ONCE = 500
BURST_SECONDS = 1.0
"""A delayed replay sends at most the letters of this time at once."""

GATHER_MILLISECONDS = 10_000
"""How long letters are collected before operators are notified, so that one mail is about all that fails together."""
DIGEST_MILLISECONDS = 300_000
"""The shortest time between two mails to the operators."""

_BROKERS_WORDS = {
    "delivery_limit": "its consumers died or vanished again and again, until the broker gave it up",
    "rejected": "a consumer rejected it",
    "expired": "it waited for longer than it may",
    "maxlen": "its queue was full",
}
_NO_REASON = "nobody said why"
_GIVEN_UP = re.compile(r"failed \d+ times")
# A host and the port on which a server listens. The port of a client differs with each connection.
_SERVER = re.compile(
    r"(?<![\w@.:-])"
    r"((?:localhost|\[[0-9a-fA-F:]+\]|\d{1,3}(?:\.\d{1,3}){3}|[A-Za-z][\w-]*(?:\.[\w-]+)+)"
    r":(?:[12]?\d{1,4}|3[01]\d{3}|32[0-6]\d\d|327[0-5]\d|3276[0-7]))(?!\d|[.:]\d)"
)
# The order matters: the rest of a time or of an id would count as numbers.
_VARYING = (
    (re.compile(r"[^\s<>\"'(]+@[^\s<>\"'),;]+"), "<address>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?"), "<time>"),
    (re.compile(r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b"), "<id>"),
    (re.compile(r"\b(?:0x[0-9a-fA-F]+|(?=[a-fA-F]*\d)[0-9a-fA-F]{12,})\b"), "<id>"),
    (re.compile(r"(?<![A-Za-z_])\d+(?:[.,]\d+)*"), "<n>"),
)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a message is dead, as its headers or the broker's marks say. Times are epoch milliseconds."""

    reason: str
    exception: str | None
    attempts: int
    first_at: int
    last_at: int
    service: str | None = None
    version: str | None = None
    host: str | None = None
    traceback: str | None = None


def failure(headers: Mapping[str, Any], now: int) -> Failure:
    """The failure of a dead letter, from the headers that the kernel wrote, or from the broker's marks if the broker
    dead-lettered it. If no service has read the message, all other headers are the sender's and are not trusted."""
    mark = brokers_mark(headers)
    if is_first_hand(headers) or "failure_reason" not in headers:
        return _given_up_by_the_broker(mark, now)
    failed = _said(headers, now)
    if not mark:  # the kernel removes it from all that it sends on
        return failed
    given_up = _given_up_by_the_broker(mark, now)
    return replace(failed, reason=given_up.reason, last_at=given_up.last_at)


def _said(headers: Mapping[str, Any], now: int) -> Failure:
    said = {name: clean(str(headers.get(f"failure_{name}") or "")) for name in _SAID}
    last_at = _moment(said["last_at"]) or now
    attempts = headers.get("failure_attempts")
    return Failure(
        reason=_reason(said["reason"], said["exception"], said["message"]),
        exception=said["exception"][:255] or None,
        attempts=attempts if isinstance(attempts, int) and 0 < attempts < 1_000_000 else 1,
        first_at=_moment(said["first_at"]) or last_at,
        last_at=last_at,
        service=said["service"][:64] or None,
        version=said["version"][:64] or None,
        host=said["host"][:255] or None,
        traceback=said["traceback"] or None,
    )


_SAID = ("reason", "exception", "message", "traceback", "first_at", "last_at", "service", "version", "host")


def _reason(reason: str, exception: str, message: str) -> str:
    """The exception and its message, in place of `failed 6 times`."""
    if _GIVEN_UP.fullmatch(reason) and (exception or message):
        reason = f"{exception}: {message}" if exception and message != exception else exception or message
    return (" ".join(reason.split()) or _NO_REASON)[:LONGEST_REASON]


def _given_up_by_the_broker(mark: Mapping[str, Any], now: int) -> Failure:
    word = str(mark.get("reason") or "")
    at = mark.get("time")
    moment = _milliseconds(at) if isinstance(at, datetime) else now
    return Failure(_BROKERS_WORDS.get(word, word[:LONGEST_REASON] or _NO_REASON), None, 1, moment, moment)


def brokers_mark(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """The newest entry of `x-death`; empty without one."""
    marks = headers.get("x-death")
    newest = marks[0] if isinstance(marks, list) and marks else {}
    return newest if isinstance(newest, dict) else {}


def key_of(headers: Mapping[str, Any], type_: str | None) -> str:
    """The name of a dead letter's message: the routing key if the broker dead-lettered it directly after an exchange,
    else the `type` that the kernel gave it."""
    mark = brokers_mark(headers)
    keys = mark.get("routing-keys")
    if is_first_hand(headers) and isinstance(keys, list) and keys:
        return clean(str(keys[0]))[:255]
    return clean(type_ or "")[:255]


def is_first_hand(headers: Mapping[str, Any]) -> bool:
    """Whether no service has read the message before: it came through an exchange directly before the broker
    dead-lettered it. A message that the kernel sends on has no marks of the broker, or returns by `RETURNS`."""
    return brokers_mark(headers).get("exchange") not in (None, "", RETURNS)


def pattern(reason: str) -> str:
    """A reason with placeholders for what varies between letters: mail addresses, times, ids and numbers. Digits within
    a word stay, such as those of `order.placed.v1`, and so does the address of a server."""
    parts = _SERVER.split(reason)
    return "".join(part if n % 2 else _without_varying(part) for n, part in enumerate(parts))[:LONGEST_REASON]


def _without_varying(text: str) -> str:
    for varying, name in _VARYING:
        text = varying.sub(name, text)
    return text


def group_of(lane: str, message: str, reason: str) -> str:
    """The id of a group of letters: one lane, one message, one pattern of a reason."""
    return hashlib.sha256("\x00".join((lane, message, pattern(reason))).encode("utf-8", "replace")).hexdigest()[:12]


def clean(text: str) -> str:
    """A text without NUL and halves of surrogate pairs, which no database stores."""
    return text.replace("\x00", "�").encode("utf-8", "replace").decode()


def is_deep(value: Any) -> bool:
    """Whether lists or objects are nested deeper than a letter is shown."""
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _parts(outer)]
        if not level:
            return False
    return True


def _parts(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def order_of(body: Any) -> UUID | None:
    """The order that a body names; None if it names none."""
    found = body.get("order_id") if isinstance(body, dict) else None
    try:
        return UUID(found) if isinstance(found, str) else None
    except ValueError:
        return None


def _moment(text: str) -> int | None:
    try:
        return _milliseconds(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        return None


def _milliseconds(at: datetime) -> int:
    """Epoch milliseconds. Raises OverflowError if the time in UTC is outside the years 1 to 9999."""
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC).timestamp() * 1000)


# -- notifying operators ----------------------------------------------------------------------------------------------


def is_due(since: int, told_at: int | None, now: int) -> bool:
    """Whether a digest is due: letters have arrived since `since`, and the last digest was sent at `told_at` (epoch
    milliseconds). A time in the future comes from a clock that ran ahead and is ignored."""
    gathers = 0 <= now - since < GATHER_MILLISECONDS
    was_just_told = told_at is not None and 0 <= now - told_at < DIGEST_MILLISECONDS
    return not gathers and not was_just_told


# -- a replay ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Standing:
    """The progress of a replay. Up to `paced_at` (epoch milliseconds), its rate is used up."""

    sent: int
    done: int
    failed: int
    is_exhausted: bool
    rate: float
    paced_at: int


def next_step(at: Standing, now: int) -> int | Literal["wait", "finish", "fail"]:
    """The number of letters to send now, or another step. The first letter is sent alone, the others after it
    succeeded."""
    settled = at.done + at.failed
    if at.sent == 0 and not at.is_exhausted:
        return 1
    if at.sent == 1 and at.failed == 1:
        return "fail"
    if at.is_exhausted:
        return "finish" if settled == at.sent else "wait"
    if at.sent == 1 and settled == 0:
        return "wait"
    due = min(int((now - _since(at, now)) * at.rate / 1000), AT_ONCE, IN_FLIGHT - (at.sent - settled))
    return due if due > 0 else "wait"


def pace(at: Standing, sent: int, now: int) -> int:
    """The time up to which the letters that are sent now use up the rate."""
    return _since(at, now) + int(sent * 1000 / at.rate)


def _since(at: Standing, now: int) -> int:
    return max(at.paced_at, now - int(1000 * max(BURST_SECONDS, 1 / at.rate)))
