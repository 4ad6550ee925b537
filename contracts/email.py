"""What the email service owns: the command by which it sends what it has written down, and what it can be asked to
write."""

from typing import Annotated, ClassVar

from pydantic import Field

from contracts.base import UUID, AwareDatetime, Command, Contract, Email, Locale
from contracts.reports import ReportFormat, ReportKind


class DeliverMail(Command):
    """Send one recorded mail."""

    key: ClassVar[str] = "mail.deliver.v1"

    mail_id: UUID


class MailReport(Command):
    """Write to whoever asked for a report that it is ready, or (with a `reason`) that it is not to be had.

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
    """Dead letters that wait and belong together: one lane, one message, one kind of reason."""

    id: str = Field(max_length=12, examples=["0f1e2d3c4b5a"])
    lane: str = Field(max_length=64, examples=["stock"])
    message: str = Field(max_length=255, examples=["order.placed.v1"])
    reason: str = Field(max_length=500, examples=["RuntimeError: the price list is empty"])
    count: int = Field(ge=1, examples=[3])


class MailDigest(Command):
    """Tell the operators that messages were given up. `new` came since they were told last, the first of them at
    `since`; `waiting` is how many wait by now, `groups` the largest of them and `more_groups` how many others."""

    key: ClassVar[str] = "mail.digest.v1"

    new: int = Field(ge=1, examples=[3])
    since: AwareDatetime
    waiting: int = Field(ge=1, examples=[5])
    groups: Annotated[tuple[DigestGroup, ...], Field(min_length=1, max_length=10)]
    more_groups: int = Field(ge=0, examples=[0])
