"""The mails over HTTP. A customer sees the mails about its own orders."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query

from contracts.http.email import MailState, MailSummary, MailView
from services.email import store
from services.email.store import Mail
from shared.http.auth import CallerOf
from shared.http.body import Route
from shared.http.pages import Cursor, Page, paginate
from shared.http.problems import Problem
from shared.http.protocol import IdOf
from shared.persistence.clock import moment
from shared.service.http import Running

router = APIRouter(prefix="/v1/mails", tags=["mails"], route_class=Route)


class MailsWanted(Cursor):
    """Which mails: about one order or all, in one status or any."""

    order_id: UUID | None = None
    status: MailState | None = None


@router.get("")
async def list_mails(service: Running, who: CallerOf, wanted: Annotated[MailsWanted, Query()]) -> Page[MailSummary]:
    """Mails about your orders, newest first; an operator sees everyone's, and those to operators."""
    query = store.mails(None if who.is_operator else who.subject, wanted.order_id, wanted.status)
    async with service.database.reading() as session:
        rows, has_more = await paginate(session, query, Mail.id, wanted)
    return Page(data=[MailSummary(**_known(row, MailSummary)) for row in rows], has_more=has_more)


@router.get("/{mail_id}")
async def show_mail(service: Running, who: CallerOf, mail_id: IdOf) -> MailView:
    """One mail, with its text."""
    async with service.database.reading() as session:
        mail = await store.mail(session, mail_id)
    if mail is None or not (who.is_operator or who.subject == mail.owner):
        raise Problem(404, "not_found", f"There is no mail {mail_id}.")
    return MailView(**_known(mail, MailView))


def _known(mail: Mail, view: type[MailSummary]) -> dict[str, Any]:
    known = {name: getattr(mail, name) for name in view.model_fields}
    sent_at = moment(mail.sent_at) if mail.sent_at is not None else None
    return known | {"created_at": moment(mail.created_at), "sent_at": sent_at}
