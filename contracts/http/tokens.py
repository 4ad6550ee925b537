"""Revoked tokens over HTTP."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from contracts.base import AwareDatetime, Contract, text
from contracts.http.common import Moment, example


class RevocationIn(Contract):
    """A revocation of one token by its `jti`, or of all tokens that a subject was given `before` (by default now)."""

    model_config = example(subject="ana")

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
    """A revoked token, or the revoked tokens of a subject; who revoked them, and when."""

    token_id: str | None = None
    subject: str | None = None
    before: AwareDatetime | None = None
    by: str
    at: AwareDatetime


class Revocations(Contract):
    """Revocations, newest first."""

    data: tuple[RevocationView, ...]
