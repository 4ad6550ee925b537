"""Reports and notifications over HTTP."""

from pydantic import ConfigDict, Field, StrictBool

from contracts.base import UUID, AwareDatetime, Contract, Email, Locale
from contracts.reports import ReportFormat, ReportKind, ReportStatus, ReportWish


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
