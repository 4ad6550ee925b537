"""What a message means for a job, and what a client's wishes mean for us."""

import hashlib
import re
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from contracts.base import Command, JobKind, JobState, Message
from contracts.broker import is_from
from contracts.flow import FLOW, service_of
from contracts.jobs import JobProgressed

LONGEST_WAIT = 30
"""Seconds."""

_WAIT = re.compile(r'(?:^|[,;\s])wait\s*=\s*"?(\d{1,9})"?\s*(?:$|[,;])', re.IGNORECASE)
_EVENT_ID = re.compile(r"(\d{1,9})\.(\d{1,9})")
STARTED_BY: dict[str, type[Command]] = {
    message.job_kind.name: message for message in FLOW if issubclass(message, Command) and message.job_kind
}
"""The command by which a kind of job is started."""
RESOURCES = {kind.resource for command in STARTED_BY.values() if (kind := command.job_kind) and kind.resource}
GIVEN_UP = "dead_lettered"
"""The error of a job whose message is among the dead letters: sent again from there, it may end well after all."""


@dataclass(frozen=True, slots=True)
class Move:
    """What changes in a job: its status, and what else the message brought."""

    status: JobState
    progress: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    is_milestone: bool = True
    """Whether it is worth a line in the timeline; progress is not, it comes too often."""


def move(status: JobState, said: JobState, message: Message, done: int = 0, error: str | None = None) -> Move | None:
    """What a message that says `said` changes in a job in `status`, of which `done` is known to be done; None if
    nothing. Progress that comes late, after later progress, is none. A final state is never left, but for the failure
    that a message was given up: that is left by another end."""
    if status.is_final and not (error == GIVEN_UP and said.is_final):
        return None
    body = message.model_dump(mode="json")
    if status.is_final and said is status and body.get("reason") == error:
        return None
    if isinstance(message, JobProgressed):
        return Move(said, progress=body, is_milestone=False) if message.done >= done else None
    if said is JobState.SUCCESS:
        return Move(said, result=body)
    if said is JobState.FAILURE:
        return Move(said, error=_error(body))
    return Move(said)


def _error(body: dict[str, Any]) -> dict[str, Any]:
    code = str(body.pop("reason", "failed"))
    return {"code": code, "detail": body.pop("detail", None) or f"{code.replace('_', ' ').capitalize()}.", **body}


def mailbox(email: str) -> str:
    """What an address leads to, as far as anybody can tell: capitals and what follows a plus sign change nothing."""
    local, _, host = email.casefold().rpartition("@")
    return f"{local.partition('+')[0]}@{host}"


def kind_of(command: type[Command]) -> JobKind:
    """The kind of job that a command starts."""
    assert command.job_kind, f"{command.__name__} starts no job"
    return command.job_kind


def resource(kind: str) -> str | None:
    """What a kind of job is about: `order.place` an order; None for one such as `reports.rebuild`."""
    return kind_of(STARTED_BY[kind]).resource if kind in STARTED_BY else None


def is_creation(kind: str) -> bool:
    """Whether a kind of job makes what it is about."""
    return kind in STARTED_BY and kind_of(STARTED_BY[kind]).is_creation


def may_tell(kind: str, user: str | None) -> bool:
    """Whether a broker's user may say what every service can say of a job: only the service that works on it may."""
    command = STARTED_BY.get(kind)
    return is_from(user, service_of(FLOW[command].lanes[0]) if command else "")


def is_about(kind: str, resource_id: UUID | None, message: Message) -> bool:
    """Whether a message is not about another order or report than the job is."""
    named = {(name, found) for name in RESOURCES if (found := getattr(message, f"{name}_id", None))}
    return named <= {(resource(kind), resource_id)}


def cancelled_by(kind: str) -> type[Command] | None:
    """The command that cancels jobs of a kind; None where nothing does."""
    return kind_of(STARTED_BY[kind]).cancelled_by if kind in STARTED_BY else None


def cancellation(command: type[Command], target: UUID, by: str) -> Command:
    """A command that cancels a job: `target` is what the job is about, or the job itself."""
    said = {next(iter(command.model_fields)): target, "by": by}
    return command(**{name: value for name, value in said.items() if name in command.model_fields})


def preferred_wait(prefer: str) -> int | None:
    """Seconds to wait, from a `Prefer` header (RFC 7240), at most 30; None without one that we understand.

    A preference is a wish: what cannot be understood is passed over, as the RFC has it.
    """
    found = _WAIT.search(prefer)
    return min(int(found[1]), LONGEST_WAIT) if found else None


@dataclass(frozen=True, slots=True)
class Seen:
    """How much of a job's history a client has: it is the `id` of a server-sent event."""

    revision: int = 0
    lines: int = 0

    @classmethod
    def read(cls, last_event_id: str | None) -> "Seen":
        """From a `Last-Event-ID` header; one that is not ours means that nothing was seen."""
        found = _EVENT_ID.fullmatch(last_event_id or "")
        return cls(int(found[1]), int(found[2])) if found else cls()

    def __str__(self) -> str:
        return f"{self.revision}.{self.lines}"


@dataclass(frozen=True, slots=True)
class Key:
    """An idempotency key in its scope, and a fingerprint of what was asked for under it."""

    id: str
    payload: str

    @classmethod
    def of(cls, given: str, *, subject: str, route: str, payload: str) -> "Key":
        """Callers and routes do not share keys."""
        return cls(_digest(subject, route, given), _digest(payload))


def _digest(*parts: str) -> str:
    framed = "".join(f"{len(part)}:{part}" for part in parts)  # so that no two lists of parts look the same
    return hashlib.sha256(framed.encode("utf-8", "surrogatepass")).hexdigest()
