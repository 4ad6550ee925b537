"""Dead letters over HTTP."""

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, JsonValue, field_validator, model_validator

from contracts.base import UUID, AwareDatetime, Contract
from contracts.deadletters import Key, LetterFilter, LetterState, Rate, Selection
from contracts.flow import LANES
from contracts.http.common import ORDER_ID, example

_BY_IDS: Any = {"required": ["ids"], "properties": {"ids": {"type": "array"}}}
_BY_FILTER: Any = {"required": ["filter"], "properties": {"filter": {"type": "object", "minProperties": 1}}}
_ALL: Any = {"required": ["all"], "properties": {"all": {"const": True}}}
_SOME_LETTERS: Any = {"filter": {"lane": "stock", "message": "order.placed.v1"}}


class ReplayWish(Selection):
    """Which dead letters to send again, and how many a second."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [_BY_IDS, _BY_FILTER, _ALL], "examples": [{**_SOME_LETTERS, "rate": 20}]}
    )

    rate: Rate = 50

    @model_validator(mode="after")
    def _can_be_sent(self) -> Self:
        wanted = self.filter or LetterFilter()
        if wanted.state not in (None, "WAITING", "SENT"):
            raise ValueError(
                f"what is {wanted.state} is not sent again: only what is WAITING, or SENT without an outcome"
            )
        if wanted.lane is not None and wanted.lane not in LANES:
            raise ValueError(f"there is no lane {wanted.lane!r} to send to: {', '.join(LANES)} are there")
        return self


def _boolean(value: object) -> object:
    """Refuse 0, which Pydantic accepts for the literal False."""
    if not isinstance(value, bool):
        raise ValueError("it is not a boolean")
    return value


class PurgeWish(Selection):
    """Which dead letters to remove for good: by their ids, or by what they have in common. There is no `all` here."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [_BY_IDS, _BY_FILTER], "examples": [_SOME_LETTERS]})

    all: Annotated[Literal[False], BeforeValidator(_boolean)] = False


class EditWish(Contract):
    """What to send in a dead letter's place: a body, and, where nobody knows what the letter was, its name."""

    model_config = example(body={"order_id": ORDER_ID})

    body: dict[str, JsonValue]
    message: Key | None = Field(default=None, description="By default the letter's own.")

    @field_validator("body", mode="before")
    @classmethod
    def _can_be_read(cls, body: object) -> object:
        inner = [body]
        for _ in range(DEEPEST):
            inner = [value for values in inner for value in _values_of(values)]
        if inner:
            raise ValueError(f"is nested more than {DEEPEST} levels deep")
        return body

    @field_validator("body")
    @classmethod
    def _can_be_sent(cls, body: dict[str, JsonValue]) -> dict[str, JsonValue]:
        try:
            json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("half of a surrogate pair is no text") from error
        return body


DEEPEST = 50
"""How deep a body may be nested. Readers of JSON fail between a hundred and a thousand levels, and every program that
an accepted body passes must be able to read it."""


def _values_of(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


class LetterSummary(Contract):
    """A dead letter without what it carries. `number` counts how often it was sent again."""

    id: UUID
    lane: str = Field(examples=["stock"])
    message: str = Field(description="Its name on the wire; empty where nobody knows it.", examples=["order.placed.v1"])
    group: str
    message_id: str | None
    job_id: str | None
    order_id: UUID | None
    reason: str
    exception: str | None
    attempts: int
    first_at: AwareDatetime
    last_at: AwareDatetime
    service: str | None
    version: str | None
    host: str | None
    size: int = Field(description="Bytes of its body.")
    state: LetterState
    number: int


class HistoryEntry(Contract):
    """What was done with a letter, or came of it; `by` an operator, or by nobody."""

    model_config = ConfigDict(extra="allow")

    at: AwareDatetime
    what: str = Field(examples=["sent again"])
    by: str | None = None


class LetterView(LetterSummary):
    """A dead letter as it is. `body` is JSON, text, or bytes in base64, as `encoding` says."""

    body: JsonValue
    encoding: Literal["json", "text", "base64"]
    properties: dict[str, JsonValue]
    headers: dict[str, JsonValue]
    traceback: str | None
    history: tuple[HistoryEntry, ...]


class LetterGroup(Contract):
    """Dead letters of one lane, one message and one reason; numbers, ids and times in the reason do not count."""

    id: str
    lane: str
    message: str
    reason: str
    count: int = Field(ge=1)
    first_at: AwareDatetime
    last_at: AwareDatetime


class LetterGroups(Contract):
    """The largest groups, largest first."""

    data: tuple[LetterGroup, ...]
    has_more: bool = Field(description="Whether there are more groups than these.")
    total: int = Field(ge=0, description="Letters in all groups, also in those that are not here.")


class ActionView(Contract):
    """What an operator did: `id` is its job's. `total` letters were meant; `done` and `failed` say how they ended.
    `wish` is without the body that an edit sends."""

    id: UUID
    kind: Literal["replay", "edit", "purge", "cancel"]
    by: str
    at: AwareDatetime
    wish: dict[str, JsonValue]
    status: Literal["RUNNING", "DONE", "FAILED", "CANCELLED"]
    detail: str | None
    total: int | None
    sent: int
    done: int
    failed: int
    ended_at: AwareDatetime | None
