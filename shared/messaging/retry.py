"""What becomes of a message that failed: up the ladder of delays, then to its lane's dead letters."""

import contextlib
import json
import math
import re
import socket
import time
import traceback
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal
from uuid import UUID

import structlog

from contracts.base import Command, Envelope, Message
from contracts.broker import DEAD_LETTERS, retry_exchange
from contracts.flow import BY_KEY, FLOW, SHOP, service_of
from contracts.jobs import JobFailed, JobRetrying, LetterSettled
from shared.config.settings import seconds
from shared.messaging import inbox
from shared.messaging.confirms import Publish
from shared.messaging.decode import (
    PROBLEM,
    SENT_BY,
    Delivery,
    Oversized,
    Raw,
    comes_back,
    is_shops,
    key_of,
    reason_of,
    replay_of,
    sent_at,
    user_of,
)
from shared.messaging.handler import Poison
from shared.messaging.outbox import Outbox
from shared.messaging.publisher import Properties, Publisher, gone_is_outage
from shared.messaging.unit import UnitOfWork
from shared.observability import metrics, tracing

log = structlog.get_logger(__name__)

TRACEBACK_LINES = 20
HEADER_BYTES = 2_000
HEADERS_BYTES = 32_000  # all of a message's must fit into one frame, ours too
# The broker's own marks. Sent on, `x-death` would make it see a cycle and drop the message without a word.
BROKER_HEADERS = ("x-death", "x-first-death", "x-last-death", "x-delivery-count", "x-acquired-count")
# What the kernel and deadletters write about a message; on one that came through an exchange, anybody may have.
CLAIMS = ("failure_", "attempt", "edited_from")
# Further routing keys: a sender would reach queues through our copy that it may not reach itself.
SENDER_SELECTED = ("CC", "BCC")


RETRIES_SECONDS = 120.0
"""How long a retry is spoken of: longer than most steps of a ladder, so that what goes on failing stays in sight."""
FEW_RETRIES = 2
"""So many in that time are everyday life, such as two messages that overtook each other."""
BYTES_AT_ONCE = 4 * 1024 * 1024
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ADDRESS = re.compile(r"[^\s<>\"'(]+@[^\s<>\"'),;]+")


@dataclass(frozen=True, slots=True)
class Copy:
    """A message on its way out of its lane, to a retry queue or to the dead letters, with more headers.

    It has no envelope if nobody can read it, and no outcome if the message is only put off; `tells` is the envelope
    under which its job is told what `follow` says.
    """

    raw: Raw
    envelope: Envelope | None
    exchange: str
    headers: dict[str, Any]
    outcome: Literal["retried", "dead_lettered"] | None = None
    about: dict[str, str] = field(default_factory=dict)
    tells: Envelope | None = None
    follow: Message | None = None

    def fate(self) -> tuple[object, ...]:
        """The same for copies of one message that came together and go the same way: a broker that is silent during an
        alarm is sent one again and again, and has them all in the end."""
        if self.envelope is None:
            return (id(self),)
        return self.exchange, self.envelope.message_id, self.envelope.attempt, replay_of(self.raw)

    def properties(self) -> Properties:
        """Its own, as far as they can be believed, and the headers."""
        return copied(self.raw, self.envelope, self.headers)


class Failures:
    """A lane's way out for what it cannot do: every copy is confirmed before the original may be acknowledged."""

    def __init__(self, lane: str, outbox: Outbox, publisher: Publisher, ladder: Sequence[str], version: str) -> None:
        self._lane, self._outbox, self._publisher = lane, outbox, publisher
        self._ladder, self._version = ladder, version
        self._retried: deque[float] = deque(maxlen=1_000)  # when, by the monotonic clock
        self._why = ""
        self._waiting: Counter[int] = Counter()  # by the second of that clock in which their wait ends

    def waiting(self) -> int:
        """Messages that this process has sent up the ladder and whose wait is not over."""
        for end in [end for end in self._waiting if end < time.monotonic()]:
            del self._waiting[end]
        return self._waiting.total()

    def warning(self) -> str | None:
        """That messages of the lane fail and are tried again, and why the last of them; None while hardly one does."""
        while self._retried and self._retried[0] < time.monotonic() - RETRIES_SECONDS:
            self._retried.popleft()
        if (number := len(self._retried)) <= FEW_RETRIES:
            return None
        return f"retried {number} times within the last {RETRIES_SECONDS:g} s, lastly because of: {self._why}"

    def failed(self, delivery: Delivery, error: Exception) -> Copy:
        """What to send on of a message that failed: to the next retry queue, or after the last to the dead letters."""
        envelope, why = delivery.envelope, f"failed {delivery.envelope.attempt} times"
        is_lost = isinstance(error, Poison) or envelope.attempt > len(self._ladder)
        reason = reason_of(error) if isinstance(error, Poison) else why
        headers = self._headers(delivery.raw, envelope, reason if is_lost else why, error)
        about = delivery.subject() | {"error": reason_of(error)}
        starts_job = _starts_job(type(delivery.message), envelope.message_id, envelope.correlation_id, envelope.user)
        tells = envelope if starts_job or delivery.message.carries_job else None
        if is_lost:
            follow: Message = job_failed(reason_of(error), error)
            about |= {"reason": reason}
            return Copy(delivery.raw, envelope, DEAD_LETTERS, headers, "dead_lettered", about, tells, follow)
        step = self._ladder[envelope.attempt - 1]
        follow = JobRetrying(attempt=envelope.attempt, retry_in=seconds(step))
        headers |= {"attempt": envelope.attempt + 1}
        about |= {"retry_in": step}
        return Copy(delivery.raw, envelope, retry_exchange(step), headers, "retried", about, tells, follow)

    def unreadable(self, raw: Raw, reason: str, error: BaseException) -> Copy:
        """What to send to the dead letters of a message that nobody can read. A job that it would have moved fails."""
        headers = self._headers(raw, None, reason, error)
        ids = {"message_id": raw.message_id, "correlation_id": _job_of(raw)}
        about = {name: found for name, found in ids.items() if found} | _order_in(raw)
        about |= {"reason": reason, "error": reason_of(error)}
        return Copy(raw, None, DEAD_LETTERS, headers, "dead_lettered", about, _cause_of(raw), job_failed(reason, error))

    def postponed(self, delivery: Delivery) -> Copy:
        """What to send on of a message that is to come again after the shortest wait. No attempt is counted."""
        envelope = delivery.envelope
        return Copy(delivery.raw, envelope, retry_exchange(self._ladder[0]), {"attempt": envelope.attempt})

    async def send(self, copies: list[Copy]) -> None:
        """Publish copies with few waits for the broker; those that it has confirmed are taken off the list.

        Raises `Outage` while some are left. `record` must follow as a step of its own: tried again together, they would
        send the messages on twice.
        """
        while copies:
            some = _first(copies)
            sends = [Publish(copy.raw.body, copy.exchange, self._lane, copy.properties(), True) for copy in some]
            errors = await self._publisher.forward(sends)
            confirmed = [copy for copy, error in zip(some, errors, strict=True) if error is None]
            copies[: len(some)] = [copy for copy, error in zip(some, errors, strict=True) if error]
            for copy in confirmed:
                self._tell(copy)
            if error := next(filter(None, errors), None):
                with gone_is_outage(f"publishing to {some[0].exchange!r} failed"):
                    raise error

    async def record(self, copies: Sequence[Copy]) -> None:
        """The attempts of these messages had an outcome; the jobs that stand or fall with them are told."""
        ended = {copy.envelope.message_id for copy in copies if copy.envelope and copy.outcome}
        told = [copy for copy in copies if copy.tells and copy.follow]
        if not ended and not told:
            return
        async with self._outbox.unit() as unit:
            await inbox.end_attempts(unit.session, self._lane, ended, self._outbox.owner)
            for copy in told:
                unit.cause = copy.tells
                unit.send(*filter(None, [copy.follow]))

    def _headers(self, raw: Raw, envelope: Envelope | None, reason: str, error: BaseException) -> dict[str, Any]:
        attempt = envelope.attempt if envelope else 1
        return failure_headers(_without_claims(raw), reason, error, attempt, service_of(self._lane), self._version)

    def _tell(self, copy: Copy) -> None:
        if copy.outcome == "retried":
            self._retried.append(time.monotonic())
            self._waiting[math.ceil(time.monotonic() + seconds(copy.about["retry_in"]))] += 1
            self._why = _ADDRESS.sub("<address>", _line(copy.about["error"])) or copy.headers["failure_exception"]
        if copy.outcome:
            tell(self._lane, copy.outcome, copy.envelope, **copy.about)


def copied(raw: Raw, envelope: Envelope | None = None, more: Mapping[str, Any] = MappingProxyType({})) -> Properties:
    """The properties of a message's copy on its way back to its lane: what can be believed of its own, and more
    headers. It has no envelope if it was not read."""
    return Properties(
        message_id=envelope.message_id if envelope else raw.message_id,
        correlation_id=envelope.correlation_id if envelope else _job_of(raw),
        message_type=envelope.key if envelope else key_of(raw),
        app_id=raw.app_id,
        timestamp=raw.timestamp,
        content_type="application/json" if isinstance(raw.body, Oversized) else raw.content_type or "application/json",
        delivery_mode=2,
        headers=sendable(_without_claims(raw)) | dict(more),
    )


def job_failed(why: str, error: BaseException) -> JobFailed:
    """What a job is told whose message was given up."""
    return JobFailed(reason="dead_lettered", detail=_line(why) or type(error).__name__)


def _first(copies: Sequence[Copy]) -> Sequence[Copy]:
    """As many as are put into one write to the broker."""
    size = 0
    for number, copy in enumerate(copies):
        size += len(copy.raw.body)
        if number and size > BYTES_AT_ONCE:
            return copies[:number]
    return copies[:]


def _cause_of(raw: Raw) -> Envelope | None:
    """The envelope of a message that cannot be read, if a job stands or falls with it; jobs have UUIDs."""
    contract, message_id, job = BY_KEY.get(key_of(raw)), raw.message_id or "", _job_of(raw) or ""
    is_known = contract and (_starts_job(contract, message_id, job, user_of(raw)) or contract.carries_job)
    if not is_known or not _UUID.fullmatch(job) or "\x00" in message_id:
        return None
    return Envelope(message_id, job, key_of(raw), raw.app_id or "", sent_at(raw))


def _starts_job(contract: type[Message], message_id: str, job: str, user: str | None) -> bool:
    """Whether a job stands or falls with a message. One that a shop may have sent, whose id can be that of anybody's
    job, is only taken for it if the broker says that another user sent it."""
    if not issubclass(contract, Command) or message_id != job:
        return False
    return SHOP not in FLOW[contract].senders or user not in ("", SHOP)


def settle(delivery: Delivery, unit: UnitOfWork) -> None:
    """If a message was sent again from the dead letters, tell whoever sent it that its effect is there."""
    if replay := replay_of(delivery.raw):
        unit.cause = delivery.envelope
        unit.send(LetterSettled(letter_id=replay[0], number=replay[1]))


def _without_claims(raw: Raw) -> dict[str, Any]:
    """A message's headers, without those by which a sender makes it look like one that failed before or was sent again,
    and without what kept us from reading it: the copy's properties are ours."""
    left = {PROBLEM, SENT_BY} if replay_of(raw) else {PROBLEM, SENT_BY, "replay"}
    left |= {name for name in raw.headers if not comes_back(raw) and name.startswith(CLAIMS)}
    user = user_of(raw)
    own = {} if user is None else {SENT_BY: user}
    return {name: value for name, value in raw.headers.items() if name not in left} | own


def _job_of(raw: Raw) -> str | None:
    """The job that a message belongs to that cannot be read, as if it could."""
    return raw.message_id if is_shops(raw) else raw.correlation_id


def _order_in(raw: Raw) -> dict[str, str]:
    """The order that a body names, also one that does not fit its schema: by it people look for the log line."""
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {"order_id": str(UUID(json.loads(raw.body)["order_id"]))}
    return {}


def tell(lane: str, outcome: str, envelope: Envelope | None, **more: Any) -> None:
    """One line and one count for what became of a message."""
    key, service = envelope.key if envelope else metrics.UNREADABLE, service_of(lane)
    metrics.of(metrics.MESSAGES, service, lane, key, outcome).inc()
    if envelope and outcome in ("done", "dead_lettered"):
        metrics.of(metrics.ATTEMPTS, service, lane).observe(envelope.attempt)
    if envelope:
        more |= {"message_id": envelope.message_id, "correlation_id": envelope.correlation_id}
        more |= {"attempt": envelope.attempt}
        if trace_id := tracing.trace_id(envelope.traceparent):
            more["trace_id"] = trace_id
    (log.info if outcome in ("done", "duplicate") else log.warning)(outcome, lane=lane, message=key, **more)


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


def _line(text: str) -> str:
    """A text from anywhere as one line of a job's story, which has no control characters; it can come out empty."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:500]


def _short(text: str, *, from_end: bool = False) -> str:
    clean = text.replace("\x00", "\\0").encode("utf-8", "replace")
    return (clean[-HEADER_BYTES:] if from_end else clean[:HEADER_BYTES]).decode("utf-8", "ignore")
