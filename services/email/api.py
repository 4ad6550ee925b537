"""The email service's routes: what was written to whom, for support."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BaseModel

from services.email import store
from services.email.store import Mail, MailStatus
from shared.clock import moment
from shared.http import Cursor, Page, Problem, paginate
from shared.security import OperatorOf
from shared.service import Running

router = APIRouter(prefix="/v1/mails", tags=["mails"])


class MailSummary(BaseModel):
    """A mail without its text. `smtp_answer` is what the server said when it took or refused it."""

    id: UUID
    kind: str
    recipient: str
    locale: str
    subject: str
    message_id: str
    order_id: UUID | None
    correlation_id: str
    status: MailStatus
    smtp_answer: str | None
    created_at: AwareDatetime
    sent_at: AwareDatetime | None


class MailView(MailSummary):
    """A mail as it was sent."""

    text: str
    html: str


class MailsWanted(Cursor):
    """Which mails: about one order, or all."""

    order_id: UUID | None = None


@router.get("")
async def list_mails(service: Running, who: OperatorOf, wanted: Annotated[MailsWanted, Query()]) -> Page[MailSummary]:
    """Mails, newest first."""
    async with service.database.reading() as session:
        rows, has_more = await paginate(session, store.mails(wanted.order_id), Mail.id, wanted)
    return Page(data=[MailSummary(**_times(row)) for row in rows], has_more=has_more)


@router.get("/{mail_id}")
async def show_mail(service: Running, who: OperatorOf, mail_id: UUID) -> MailView:
    """One mail, with its text."""
    async with service.database.reading() as session:
        mail = await store.mail(session, mail_id)
    if mail is None:
        raise Problem(404, "not_found", f"There is no mail {mail_id}.")
    return MailView(**_times(mail))


def _times(mail: Mail) -> dict[str, object]:
    sent_at = moment(mail.sent_at) if mail.sent_at is not None else None
    return mail.model_dump() | {"created_at": moment(mail.created_at), "sent_at": sent_at}
