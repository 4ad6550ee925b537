"""What the email service owns: the command by which it sends what it has written down, and what it can be asked to
write."""

from typing import ClassVar

from contracts.base import UUID, AwareDatetime, Command, Email, Locale
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
