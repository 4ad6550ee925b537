"""What services say over HTTP, where the gateway and the owner of an answer both need to know its shape.

Times are aware and in UTC. What a client sends may have no unknown fields: a misspelt one is refused, not ignored.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    field_validator,
    model_validator,
)

from contracts.base import (
    UUID,
    AwareDatetime,
    Contract,
    Currency,
    Email,
    Integral,
    IsoCurrency,
    JobState,
    Locale,
    MinorUnits,
    Money,
    Sku,
    text,
)
from contracts.deadletters import Key, LetterFilter, LetterState, Rate, Selection
from contracts.flow import LANES
from contracts.orders import Customer, OrderedLine, OrderLine, OrderState, RejectedLine, RejectionReason
from contracts.reports import ReportFormat, ReportKind, ReportStatus, ReportWish
from contracts.stock import ReservedLine

_ORDER_ID = "01985b7e-6f4a-7c3e-9d1f-0a2b3c4d5e6f"
_JOB_ID = "01985b7e-6f4a-7c3e-9d1f-0a2b3c4d5e70"
HIGHEST_PRICE = 1_000_000_000
"""In minor units: the largest order at this price (2,000,000 pieces) still has a total that `Money` can say."""
_AT = datetime(2026, 11, 2, 14, 30, tzinfo=UTC).isoformat()


def _example(**fields: Any) -> ConfigDict:
    """What the documentation shows, ready to be sent."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


# -- orders -----------------------------------------------------------------------------------------------------------


class OrderIn(Contract):
    """A wish for an order: `PlaceOrder` without its id, which the gateway gives. Prices are not the sender's to say."""

    model_config = _example(
        customer={"id": "ana", "name": "Ana Souza", "email": "ana@example.com", "locale": "pt-BR"},
        currency="BRL",
        lines=[{"sku": "COFFEE-1KG", "quantity": 2}],
    )

    customer: Customer
    currency: IsoCurrency
    lines: Annotated[tuple[OrderLine, ...], Field(min_length=1, max_length=200)]


class OrderView(Contract):
    """An order as it stands."""

    id: UUID = Field(examples=[_ORDER_ID])
    status: OrderState
    reason: RejectionReason | None = Field(default=None, description="Why it was rejected.")
    rejected_lines: tuple[RejectedLine, ...] = Field(default=(), description="The lines that are to blame.")
    customer: Customer
    currency: Currency
    lines: tuple[OrderedLine, ...]
    total: Money | None = None
    placed_at: AwareDatetime = Field(examples=[_AT])
    confirmed_at: AwareDatetime | None = None
    rejected_at: AwareDatetime | None = None
    cancelled_at: AwareDatetime | None = None
    job_id: str = Field(description="The job that placed it: the id of the `PlaceOrder` message.", examples=[_JOB_ID])


# -- stock ------------------------------------------------------------------------------------------------------------


def _not_zero(delta: int) -> int:
    if delta == 0:
        raise ValueError("an adjustment by nothing is none")
    return delta


class Price(Money):
    """What one piece costs."""

    amount: Annotated[int, Field(strict=True, ge=0, le=HIGHEST_PRICE, examples=[6990]), Integral]
    currency: IsoCurrency


class ProductIn(Contract):
    """What a product is called, what it costs, and when to say that it runs low."""

    model_config = _example(name="Coffee, 1 kg", price={"amount": 6990, "currency": "BRL"}, low_threshold=10)

    name: Annotated[str, text(200)] = Field(examples=["Coffee, 1 kg"])
    price: Price
    low_threshold: Annotated[
        int,
        Field(strict=True, ge=0, le=1_000_000, description="`StockLow` is said once fewer are available."),
        Integral,
    ] = 10


class AdjustmentIn(Contract):
    """Pieces that came (above zero) or went (below zero) outside of any order."""

    model_config = _example(delta=100, reason="delivery 4711")

    delta: Annotated[
        int,
        Field(strict=True, ge=-1_000_000, le=1_000_000, examples=[100], json_schema_extra={"not": {"const": 0}}),
        Integral,
        AfterValidator(_not_zero),
    ]
    reason: Annotated[str, text(200)] = Field(examples=["delivery 4711"])


class ProductView(Contract):
    """A product and its level: `available` is `on_hand` without `reserved`. `revision` counts price changes."""

    sku: Sku
    name: str = Field(examples=["Coffee, 1 kg"])
    price: Money
    low_threshold: int = Field(ge=0, examples=[10])
    on_hand: MinorUnits = Field(examples=[120])
    reserved: MinorUnits = Field(examples=[20])
    available: MinorUnits = Field(examples=[100])
    revision: int = Field(ge=1, examples=[1])


class PriceChangeView(Contract):
    """A product's name or price as somebody set it; the product is at `revision` since."""

    id: UUID
    sku: Sku
    revision: int = Field(ge=1)
    name: str = Field(examples=["Coffee, 1 kg"])
    price: Money
    changed_by: str = Field(examples=["olga"])
    changed_at: AwareDatetime


class ReservationView(Contract):
    """What an order did to the levels, and when. Pieces are reserved, then taken or released; what was taken can be
    released later, when its order is cancelled."""

    order_id: UUID = Field(examples=[_ORDER_ID])
    lines: tuple[ReservedLine, ...]
    reserved_at: AwareDatetime | None = None
    taken_at: AwareDatetime | None = None
    released_at: AwareDatetime | None = None


class AdjustmentView(Contract):
    """A change of a level by hand."""

    id: UUID
    sku: Sku
    delta: int = Field(examples=[100])
    reason: str = Field(examples=["delivery 4711"])
    adjusted_by: str
    adjusted_at: AwareDatetime


# -- jobs -------------------------------------------------------------------------------------------------------------


class Progress(Contract):
    """How far a job is; `total` is None while it is not known."""

    done: int = Field(ge=0)
    total: int | None = Field(default=None, ge=0)
    unit: str = Field(examples=["rows"])
    rate: float | None = Field(default=None, description="Units a second, so far.")
    seconds_left: float | None = Field(default=None, description="At that rate; None while it is not known.")


class TimelineEntry(Contract):
    """One message that moved the job: when it was said, its name, and by which service."""

    at: AwareDatetime = Field(examples=[_AT])
    message: str = Field(examples=["order.confirmed.v1"])
    service: str = Field(examples=["orders"])


class JobLinks(Contract):
    """Where to look next."""

    job: str = Field(examples=[f"/v1/jobs/{_JOB_ID}"])
    order: str | None = Field(default=None, examples=[f"/v1/orders/{_ORDER_ID}"])
    report: str | None = None
    events: str = Field(examples=[f"/v1/jobs/{_JOB_ID}/events"])


class JobView(Contract):
    """A job as it stands. `result` is what the message said that ended it well, `error` what ended it badly."""

    id: UUID = Field(examples=[_JOB_ID])
    kind: str = Field(examples=["order.place"])
    status: JobState
    order_id: UUID | None = Field(default=None, examples=[_ORDER_ID])
    report_id: UUID | None = None
    progress: Progress | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = Field(
        default=None, description="`code` and `detail`, and what else the message said.", examples=[None]
    )
    timeline: tuple[TimelineEntry, ...]
    created_at: AwareDatetime = Field(examples=[_AT])
    updated_at: AwareDatetime = Field(examples=[_AT])
    ended_at: AwareDatetime | None = None
    links: JobLinks


class JobAccepted(Contract):
    """A job was written down and will be worked on, whatever crashes meanwhile."""

    job_id: UUID = Field(examples=[_JOB_ID])
    order_id: UUID | None = Field(default=None, examples=[_ORDER_ID])
    report_id: UUID | None = None
    status: JobState
    links: JobLinks


class JobFinished(JobAccepted):
    """The same for a job that ended while its client waited (`Prefer: wait=N`), with how it ended."""

    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


# -- reports ----------------------------------------------------------------------------------------------------------


class LinkView(Contract):
    """A link that works without a token until `expires_at`, or until it is revoked."""

    url: str
    expires_at: AwareDatetime


class ReportView(Contract):
    """A report as it stands. `download_url` wants a token; `link` is signed and wants none."""

    id: UUID
    kind: ReportKind
    format: ReportFormat
    status: ReportStatus
    wish: ReportWish
    owner: str
    job_id: str
    filename: str | None = Field(default=None, examples=["orders-2026-11-02-4d5e6f.csv"])
    rows: int | None = None
    bytes: int | None = None
    sha256: str | None = None
    download_url: str | None = None
    link: LinkView | None = None
    reason: str | None = Field(default=None, description="Why it failed.")
    detail: str | None = None
    created_at: AwareDatetime
    ended_at: AwareDatetime | None = None
    expires_at: AwareDatetime | None = Field(default=None, description="Until when it is kept.")


class NotificationView(Contract):
    """Something that its reader should know. `message` is the name on the wire of what happened."""

    id: UUID
    message: str = Field(examples=["report.ready.v1"])
    report_id: UUID
    kind: ReportKind
    format: ReportFormat
    rows: int | None = None
    bytes: int | None = None
    detail: str | None = Field(default=None, description="Why it failed.")
    created_at: AwareDatetime
    read_at: AwareDatetime | None = None


class NotificationPage(Contract):
    """Notifications, newest first, and how many are unread in all."""

    data: tuple[NotificationView, ...]
    has_more: bool
    unread: int = Field(ge=0)


class NoticeChoice(Contract):
    """How somebody wants to be told: in which ways, and where to write. Without `email`, the token's is taken."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"mail": True, "in_app": True, "email": "ana@example.com", "locale": "pt-BR"}]}
    )

    mail: StrictBool = True
    in_app: StrictBool = True
    email: Email | None = None
    locale: Locale = "pt-BR"


# -- dead letters -----------------------------------------------------------------------------------------------------


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
    """Pydantic takes 0 for the literal False: they are equal in Python, and two things in JSON."""
    if not isinstance(value, bool):
        raise ValueError("it is not a boolean")
    return value


class PurgeWish(Selection):
    """Which dead letters to remove for good: by their ids, or by what they have in common. There is no `all` here."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [_BY_IDS, _BY_FILTER], "examples": [_SOME_LETTERS]})

    all: Annotated[Literal[False], BeforeValidator(_boolean)] = False


class EditWish(Contract):
    """What to send in a dead letter's place: a body, and, where nobody knows what the letter was, its name."""

    model_config = _example(body={"order_id": _ORDER_ID})

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
"""How deep JSON of any content may be nested. Readers of JSON give up between a hundred levels and a thousand, and what
is accepted has to be read by all that it passes."""


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


# -- mails ------------------------------------------------------------------------------------------------------------

MailState = Literal["PENDING", "SENT", "FAILED"]
"""PENDING: written down; not sent, or not known to be. SENT: the server took it. FAILED: it refused it for good."""


class MailSummary(Contract):
    """A mail without its text. `smtp_answer` is what the server said when it took or refused it."""

    id: UUID
    kind: str = Field(examples=["confirmed"])
    recipient: str = Field(examples=["ana@example.com"])
    locale: str
    subject: str
    message_id: str
    order_id: UUID | None
    correlation_id: str
    status: MailState
    smtp_answer: str | None
    created_at: AwareDatetime
    sent_at: AwareDatetime | None


class MailView(MailSummary):
    """A mail as it was sent."""

    text: str
    html: str


def _is_text(value: object) -> object:
    if isinstance(value, int | float):
        raise ValueError("write a time as text, such as 2026-11-02T14:30:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_is_text)]
"""A time that a client says: a number would be taken for seconds, or for milliseconds."""


class ResendWish(Contract):
    """Which failed mails to send again: some by their ids, or all that were written since a time."""

    model_config = _example(failed_since=_AT)

    ids: Annotated[tuple[UUID, ...], Field(max_length=1_000)] = ()
    failed_since: Moment | None = None

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if bool(self.ids) is (self.failed_since is not None):
            raise ValueError("say which mails: by `ids`, or by `failed_since`")
        return self


# -- tokens -----------------------------------------------------------------------------------------------------------


class RevocationIn(Contract):
    """What to believe no more: one token by its `jti`, or all that a subject was given `before` (by default now)."""

    model_config = _example(subject="ana")

    token_id: Annotated[str, text(255)] | None = Field(default=None, examples=["6f1c2b9e"])
    subject: Annotated[str, text(255)] | None = None
    before: Moment | None = None

    @model_validator(mode="after")
    def _is_about_one(self) -> Self:
        if (self.token_id is None) == (self.subject is None):
            raise ValueError("give token_id or subject, and only one of them")
        if self.before and self.token_id:
            raise ValueError("before goes with subject")
        return self


class RevocationView(Contract):
    """What is believed no more, who said so and when."""

    token_id: str | None = None
    subject: str | None = None
    before: AwareDatetime | None = None
    by: str
    at: AwareDatetime


class Revocations(Contract):
    """The newest first."""

    data: tuple[RevocationView, ...]
