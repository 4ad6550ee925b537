"""Mails over HTTP."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from contracts.base import UUID, AwareDatetime, Contract
from contracts.http.common import AT, Moment, example

MailState = Literal["PENDING", "SENT", "FAILED"]
"""PENDING: stored; not sent, or the outcome is unknown. SENT: the server accepted it. FAILED: the server refused it for
good."""


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


class ResendWish(Contract):
    """Which failed mails to send again: some by their ids, or all that were written since a time."""

    model_config = example(failed_since=AT)

    ids: Annotated[tuple[UUID, ...], Field(max_length=1_000)] = ()
    failed_since: Moment | None = None

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if bool(self.ids) is (self.failed_since is not None):
            raise ValueError("say which mails: by `ids`, or by `failed_since`")
        return self
