"""What becomes of a message that failed: up the ladder of delays, then to its lane's dead letters."""

import contextlib
import json
import math
import re
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from contracts.base import Command, Envelope, Message
from contracts.broker import DEAD_LETTERS, retry_exchange
from contracts.flow import BY_KEY, FLOW, SHOP, service_of
from contracts.jobs import JobFailed, JobRetrying
from shared.config.settings import seconds
from shared.messaging.causes import one_line
from shared.messaging.copies import Copy, failure_headers, job_of, without_claims
from shared.messaging.decode import Delivery, key_of, reason_of, sent_at, user_of
from shared.messaging.handler import Poison
from shared.messaging.intake import IncomingMessage
from shared.messaging.outcomes import log_outcome
from shared.messaging.tally import Tally

RETRIES_SECONDS = 120.0
"""The window in which retries are counted for the warning. It is longer than most steps of a ladder, so that messages
that go on failing are seen."""
FEW_RETRIES = 2
"""So many in that window are normal: two messages may overtake each other."""
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ADDRESS = re.compile(r"[^\s<>\"'(]+@[^\s<>\"'),;]+")


class Failures:
    """Decides what becomes of a lane's failed messages, and remembers how many were retried lately."""

    def __init__(self, lane: str, ladder: Sequence[str], version: str) -> None:
        self._lane, self._ladder, self._version = lane, ladder, version
        self.tally = Tally()
        self._retried: deque[float] = deque(maxlen=1_000)  # when, by the monotonic clock
        self._why = ""
        self._waiting: Counter[int] = Counter()  # by the second of that clock in which their wait ends

    def waiting(self) -> int:
        """Messages that this process has sent up the ladder and whose wait is not over."""
        for end in [end for end in self._waiting if end < time.monotonic()]:
            del self._waiting[end]
        return self._waiting.total()

    def warning(self) -> str | None:
        """How many messages of the lane were retried lately, and why the last of them; None for only a few."""
        while self._retried and self._retried[0] < time.monotonic() - RETRIES_SECONDS:
            self._retried.popleft()
        if (number := len(self._retried)) <= FEW_RETRIES:
            return None
        return f"retried {number} times within the last {RETRIES_SECONDS:g} s, lastly because of: {self._why}"

    def failed(self, delivery: Delivery, error: Exception) -> Copy:
        """The copy of a failed message: for the next `wait.<step>` queue (see `topology`), or after the last step for
        the dead letters."""
        envelope, why = delivery.envelope, f"failed {delivery.envelope.attempt} times"
        is_given_up = isinstance(error, Poison) or envelope.attempt > len(self._ladder)
        reason = reason_of(error) if isinstance(error, Poison) else why
        headers = self._headers(delivery.raw, envelope, reason if is_given_up else why, error)
        about = delivery.subject() | {"error": reason_of(error)}
        starts_job = _starts_job(type(delivery.message), envelope.message_id, envelope.correlation_id, envelope.user)
        cause = envelope if starts_job or delivery.message.carries_job else None
        if is_given_up:
            report: Message = job_failed(reason_of(error), error)
            about |= {"reason": reason}
            return Copy(delivery.raw, envelope, DEAD_LETTERS, headers, "dead_lettered", about, cause, report)
        step = self._ladder[envelope.attempt - 1]
        report = JobRetrying(attempt=envelope.attempt, retry_in=seconds(step))
        headers |= {"attempt": envelope.attempt + 1}
        about |= {"retry_in": step}
        return Copy(delivery.raw, envelope, retry_exchange(step), headers, "retried", about, cause, report)

    def unreadable(self, raw: IncomingMessage, reason: str, error: BaseException) -> Copy:
        """The copy for the dead letters of a message that nobody can read. A job that it would have moved fails."""
        headers = self._headers(raw, None, reason, error)
        ids = {"message_id": raw.message_id, "correlation_id": job_of(raw)}
        about = {name: found for name, found in ids.items() if found} | _order_in(raw)
        about |= {"reason": reason, "error": reason_of(error)}
        return Copy(raw, None, DEAD_LETTERS, headers, "dead_lettered", about, _cause_of(raw), job_failed(reason, error))

    def postponed(self, delivery: Delivery) -> Copy:
        """What to send on of a message that is to come again after the shortest wait. No attempt is counted."""
        envelope = delivery.envelope
        return Copy(delivery.raw, envelope, retry_exchange(self._ladder[0]), {"attempt": envelope.attempt})

    def sent_on(self, copy: Copy) -> None:
        """The broker has a copy: log its outcome and count it. One that was only put off has none."""
        if copy.outcome == "retried":
            self._retried.append(time.monotonic())
            self._waiting[math.ceil(time.monotonic() + seconds(copy.about["retry_in"]))] += 1
            self._why = _ADDRESS.sub("<address>", one_line(copy.about["error"])) or copy.headers["failure_exception"]
        if copy.outcome:
            self.tally.failed += 1
            log_outcome(self._lane, copy.outcome, copy.envelope, **copy.about)

    def _headers(
        self, raw: IncomingMessage, envelope: Envelope | None, reason: str, error: BaseException
    ) -> dict[str, Any]:
        attempt = envelope.attempt if envelope else 1
        return failure_headers(without_claims(raw), reason, error, attempt, service_of(self._lane), self._version)


def job_failed(why: str, error: BaseException) -> JobFailed:
    """What a job is told whose message was given up."""
    return JobFailed(reason="dead_lettered", detail=one_line(why) or type(error).__name__)


def _cause_of(raw: IncomingMessage) -> Envelope | None:
    """The envelope of a message that cannot be read, if a job stands or falls with it; jobs have UUIDs."""
    contract, message_id, job = BY_KEY.get(key_of(raw)), raw.message_id or "", job_of(raw) or ""
    is_known = contract and (_starts_job(contract, message_id, job, user_of(raw)) or contract.carries_job)
    if not is_known or not _UUID.fullmatch(job) or "\x00" in message_id:
        return None
    return Envelope(message_id, job, key_of(raw), raw.app_id or "", sent_at(raw))


def _starts_job(contract: type[Message], message_id: str, job: str, user: str | None) -> bool:
    """Whether a job stands or falls with a message. The id of one that a shop may have sent can be that of anybody's
    job, so it counts only if the broker says that another user sent it."""
    if not issubclass(contract, Command) or message_id != job:
        return False
    return SHOP not in FLOW[contract].senders or user not in ("", SHOP)


def _order_in(raw: IncomingMessage) -> dict[str, str]:
    """The order that a body names, also one that does not fit its schema: by it people look for the log line."""
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {"order_id": str(UUID(json.loads(raw.body)["order_id"]))}
    return {}
