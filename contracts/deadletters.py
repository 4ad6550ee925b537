"""The messages of the deadletters service: actions on dead letters, and their results."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, JsonValue, StrictBool, StringConstraints, model_validator

from contracts.base import UUID, Command, Contract, Event, JobKind, JobState, text

LetterState = Literal["WAITING", "SENT", "DONE", "REPLACED"]
"""WAITING for an operator; SENT again, without an outcome yet; DONE after it was sent again; REPLACED by an edited
one."""

IDS_AT_ONCE = 1_000
GroupId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}$"), Field(examples=["0f1e2d3c4b5a"])]
Lane = Annotated[str, text(64), Field(examples=["stock"])]
Key = Annotated[str, text(255), Field(examples=["order.placed.v1"])]
JobId = Annotated[str, text(255)]
Wording = Annotated[str, text(200), Field(examples=["COFFEE-1KG"])]
Subject = Annotated[str, text(255)]
Rate = Annotated[float, Field(ge=0.01, le=1_000, allow_inf_nan=False, description="Letters a second.")]


class LetterFilter(Contract):
    """Which dead letters: those that fit all that is said. `text` is looked for in the body, in the ids and in the
    reason, in upper and lower case alike."""

    lane: Lane | None = None
    message: Key | None = None
    group: GroupId | None = Field(default=None, description="A lane, a message and a reason: see the list of groups.")
    text: Wording | None = None
    order_id: UUID | None = None
    job_id: JobId | None = None
    state: LetterState | None = None

    @property
    def is_empty(self) -> bool:
        return not self.model_dump(exclude_none=True)


class Selection(Contract):
    """Some dead letters, in one of three ways: by their ids, by what they have in common, or all that wait."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"filter": {"lane": "stock"}}]})

    ids: Annotated[tuple[UUID, ...], Field(min_length=1, max_length=IDS_AT_ONCE)] | None = None
    filter: LetterFilter | None = None
    all: StrictBool = False

    @model_validator(mode="after")
    def _is_one_way(self) -> Self:
        if self.filter is not None and self.filter.is_empty:
            raise ValueError('say what they have in common, or "all": true')
        if [self.ids is not None, self.filter is not None, self.all].count(True) != 1:
            raise ValueError('select letters in one way: by "ids", by a "filter", or "all": true')
        return self


class CancelReplay(Command):
    """Send no more. What was not sent waits on."""

    key: ClassVar[str] = "replay.cancel.v1"
    job_kind: ClassVar[JobKind | None] = JobKind("dead_letters.cancel", "/v1/jobs/{job_id}/cancel")

    replay_id: UUID
    by: Subject


class ReplayLetters(Command):
    """Send dead letters to the lanes that failed: first one, and when that went well, the rest."""

    key: ClassVar[str] = "letters.replay.v1"
    job_kind: ClassVar[JobKind | None] = JobKind(
        "dead_letters.replay", "/v1/dead-letters/replay", cancelled_by=CancelReplay
    )

    selection: Selection
    rate: Rate
    by: Subject


class EditLetter(Command):
    """Send another message in a dead letter's place."""

    key: ClassVar[str] = "letter.edit.v1"
    job_kind: ClassVar[JobKind | None] = JobKind("dead_letters.edit", "/v1/dead-letters/{letter_id}/edit")

    letter_id: UUID
    message: Key
    body: JsonValue
    by: Subject


class PurgeLetters(Command):
    """Remove dead letters for good."""

    key: ClassVar[str] = "letters.purge.v1"
    job_kind: ClassVar[JobKind | None] = JobKind("dead_letters.purge", "/v1/dead-letters/purge")

    selection: Selection
    by: Subject


class LettersReplayed(Event):
    """All selected letters were sent, and the outcome of each is known."""

    exchange: ClassVar[str] = "deadletters"
    key: ClassVar[str] = "letters.replayed.v1"
    job: ClassVar[JobState | None] = JobState.SUCCESS

    sent: int = Field(ge=0)
    done: int = Field(ge=0)
    failed: int = Field(ge=0, description="These wait again.")


class ReplayFailed(Event):
    """The first one failed again, so the rest was not sent."""

    exchange: ClassVar[str] = "deadletters"
    key: ClassVar[str] = "replay.failed.v1"
    job: ClassVar[JobState | None] = JobState.FAILURE

    reason: Literal["probe_failed"]
    detail: str
    letter_id: UUID
    not_sent: int = Field(ge=0)


class ReplayCancelled(Event):
    """A replay was stopped. Letters that had been sent by then are processed."""

    exchange: ClassVar[str] = "deadletters"
    key: ClassVar[str] = "replay.cancelled.v1"
    job: ClassVar[JobState | None] = JobState.SUCCESS

    replay_id: UUID
    sent: int = Field(ge=0)
    not_sent: int = Field(ge=0)

    def job_states(self, correlation_id: str) -> dict[str, JobState]:
        return {str(self.replay_id): JobState.CANCELLED, correlation_id: JobState.SUCCESS}


class ReplayCancelRefused(Event):
    """A request to stop a replay came when it had ended."""

    exchange: ClassVar[str] = "deadletters"
    key: ClassVar[str] = "replay.cancel_refused.v1"
    job: ClassVar[JobState | None] = JobState.FAILURE

    replay_id: UUID
    reason: str


class LetterEdited(Event):
    """Another message was sent in a dead letter's place."""

    exchange: ClassVar[str] = "deadletters"
    key: ClassVar[str] = "letter.edited.v1"
    job: ClassVar[JobState | None] = JobState.SUCCESS

    letter_id: UUID
    message_id: UUID = Field(description="The new message's.")
    lane: Lane


class LetterEditRefused(Event):
    """A dead letter could not be edited any more: it was sent again, replaced or removed meanwhile."""

    exchange: ClassVar[str] = "deadletters"
    key: ClassVar[str] = "letter.edit_refused.v1"
    job: ClassVar[JobState | None] = JobState.FAILURE

    letter_id: UUID
    reason: str


class LettersPurged(Event):
    """Dead letters are gone for good."""

    exchange: ClassVar[str] = "deadletters"
    key: ClassVar[str] = "letters.purged.v1"
    job: ClassVar[JobState | None] = JobState.SUCCESS

    purged: int = Field(ge=0)
