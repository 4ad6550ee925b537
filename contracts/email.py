"""The messages of the email service: commands to write and to send mails, and the results of mails that are sent
again."""

from typing import Annotated, ClassVar

from pydantic import Field

from contracts.base import UUID, AwareDatetime, Command, Contract, Email, Event, JobKind, JobState, Locale, text
from contracts.reports import ReportFormat, ReportKind


class DeliverMail(Command):
    """Send one recorded mail."""

    key: ClassVar[str] = "mail.deliver.v1"

    mail_id: UUID


class MailReport(Command):
    """Write to the person who asked for a report that it is ready, or (with a `reason`) that it failed.

    `link` works without a token until `expires_at`: it is for the recipient alone.
    """

    key: ClassVar[str] = "mail.report.v1"

    report_id: UUID
    recipient: Email
    locale: Locale
    kind: ReportKind
    format: ReportFormat
    rows: int | None = None
    bytes: int | None = None
    link: str | None = None
    expires_at: AwareDatetime | None = None
    reason: str | None = None
    detail: str | None = None


class DigestGroup(Contract):
    """A group of waiting dead letters: one lane, one message, one kind of reason."""

    id: str = Field(max_length=12, examples=["0f1e2d3c4b5a"])
    lane: str = Field(max_length=64, examples=["stock"])
    message: str = Field(max_length=255, examples=["order.placed.v1"])
    reason: str = Field(max_length=500, examples=["RuntimeError: the price list is empty"])
    count: int = Field(ge=1, examples=[3])


class MailDigest(Command):
    """Notify the operators that messages were dead-lettered. `new` counts the letters after the last digest, the first
    of them at `since`; `waiting` counts all that wait; `groups` has the largest groups, and `more_groups` counts the
    others."""

    key: ClassVar[str] = "mail.digest.v1"

    new: int = Field(ge=1, examples=[3])
    since: AwareDatetime
    waiting: int = Field(ge=1, examples=[5])
    groups: Annotated[tuple[DigestGroup, ...], Field(min_length=1, max_length=10)]
    more_groups: int = Field(ge=0, examples=[0])


class ResendMails(Command):
    """Send mails again that a server refused for good: those of `ids`, or all that were written since `failed_since`.
    Many mails are sent in parts: `after` and `resent` are the progress."""

    key: ClassVar[str] = "mail.resend.v1"
    carries_job: ClassVar[bool] = True
    job_kind: ClassVar[JobKind | None] = JobKind("mails.resend", "/v1/mails/resend")

    ids: Annotated[tuple[UUID, ...], Field(max_length=1_000)] = ()
    failed_since: AwareDatetime | None = None
    by: Annotated[str, text(255)] = Field(examples=["olga"])
    after: UUID | None = None
    resent: int = Field(default=0, ge=0)


class MailsResent(Event):
    """Mails are on their way again."""

    exchange: ClassVar[str] = "email"
    key: ClassVar[str] = "mails.resent.v1"
    job: ClassVar[JobState | None] = JobState.SUCCESS

    resent: int = Field(ge=1, examples=[3])


class MailResendRefused(Event):
    """No selected mail has failed."""

    exchange: ClassVar[str] = "email"
    key: ClassVar[str] = "mail.resend_refused.v1"
    job: ClassVar[JobState | None] = JobState.FAILURE

    reason: Annotated[str, text(64)] = Field(examples=["none_failed"])
