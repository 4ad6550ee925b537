"""The gateway's decisions: what a message changes in a job, and what the headers of a request mean."""

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
WORKERS: dict[JobKind, str] = {
    message.job_kind: service_of(route.lanes[0])
    for message, route in FLOW.items()
    if issubclass(message, Command) and message.job_kind
}
"""The service that works on the jobs of each kind."""
KINDS = {kind.name: kind for kind in WORKERS}
RESOURCES = {kind.resource for kind in WORKERS if kind.resource}
GIVEN_UP = "dead_lettered"
"""The error of a job whose message was dead-lettered: sent again, the message may still end the job well."""


def kind_of(command: type[Command]) -> JobKind:
    """The kind of job that a command starts."""
    assert command.job_kind, f"{command.__name__} starts no job"
    return command.job_kind


def kind_named(name: str) -> JobKind:
    """The kind of that name. A kind that no release knows any more has no resource and cannot be cancelled."""
    return KINDS.get(name) or JobKind(name, "")


@dataclass(frozen=True, slots=True)
class Move:
    """A change of a job: its new status, and what the message brought."""

    status: JobState
    progress: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    is_milestone: bool = True
    """Whether the timeline gets a line. Progress comes too often for that."""


def move(status: JobState, said: JobState, message: Message, done: int = 0, error: str | None = None) -> Move | None:
    """The change by a message that says `said`, to a job in `status` with the progress `done`; None if it changes
    nothing, such as progress that arrives after later progress. A job never leaves a final state, with one exception:
    a job whose message was dead-lettered leaves FAILURE by another end."""
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
    """An address without what does not change its mailbox: capitals, and the part after a plus sign."""
    local, _, host = email.casefold().rpartition("@")
    return f"{local.partition('+')[0]}@{host}"


def is_worker(user: str | None, kind: str) -> bool:
    """Whether a broker user is the service that works on jobs of a kind."""
    return is_from(user, WORKERS.get(kind_named(kind), ""))


def is_about(kind: str, resource_id: UUID | None, message: Message) -> bool:
    """Whether a message names no other order or report than the job's own."""
    named = {(name, found) for name in RESOURCES if (found := getattr(message, f"{name}_id", None))}
    return named <= {(kind_named(kind).resource, resource_id)}


def cancellation(command: type[Command], target: UUID, by: str) -> Command:
    """A command that cancels a job. `target` is the id of the job's resource, or of the job if it has no resource."""
    said = {next(iter(command.model_fields)): target, "by": by}
    return command(**{name: value for name, value in said.items() if name in command.model_fields})


def preferred_wait(prefer: str) -> int | None:
    """Seconds to wait, from a `Prefer` header (RFC 7240), at most 30; None without a preference that is understood."""
    found = _WAIT.search(prefer)
    return min(int(found[1]), LONGEST_WAIT) if found else None


@dataclass(frozen=True, slots=True)
class Seen:
    """How much of a job's history a client has: the `id` of a server-sent event."""

    revision: int = 0
    lines: int = 0

    @classmethod
    def read(cls, last_event_id: str | None) -> "Seen":
        """From a `Last-Event-ID` header. An id of another form means that the client has seen nothing."""
        found = _EVENT_ID.fullmatch(last_event_id or "")
        return cls(int(found[1]), int(found[2])) if found else cls()

    def __str__(self) -> str:
        return f"{self.revision}.{self.lines}"


@dataclass(frozen=True, slots=True)
class Key:
    """An idempotency key in its scope, and a fingerprint of the request that came with it."""

    id: str
    payload: str

    @classmethod
    def of(cls, given: str, *, subject: str, route: str, payload: str) -> "Key":
        """Callers and routes do not share keys."""
        return cls(_digest(subject, route, given), _digest(payload))


def _digest(*parts: str) -> str:
    framed = "".join(f"{len(part)}:{part}" for part in parts)  # so that no two lists of parts look the same
    return hashlib.sha256(framed.encode("utf-8", "surrogatepass")).hexdigest()
