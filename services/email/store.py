"""The email service's table and its only SQL."""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, String, Text, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import registry
from sqlmodel import Field

from contracts.email import DeliverMail, ResendMails
from services.email.domain import ANSWER_LENGTH
from shared.persistence.clock import first_id
from shared.persistence.database import load
from shared.persistence.table import TableModel

RESENT_AT_ONCE = 500


class Base(TableModel, registry=registry()):
    """This service's own metadata."""


class MailStatus(StrEnum):
    PENDING = "PENDING"  # stored; not sent, or the outcome is unknown
    SENT = "SENT"  # the SMTP server took it
    FAILED = "FAILED"  # the SMTP server refused it for good


class Mail(Base, table=True):
    """A mail as it is sent. Times are epoch milliseconds."""

    __tablename__ = "mails"

    id: UUID = Field(primary_key=True)
    kind: str = Field(max_length=32)
    recipient: str = Field(max_length=254)
    locale: str = Field(max_length=8)
    subject: str = Field(sa_type=Text)
    text: str = Field(sa_type=Text)
    html: str = Field(sa_type=Text)
    message_id: str = Field(sa_type=Text)
    order_id: UUID | None = Field(default=None, index=True)
    correlation_id: str = Field(max_length=255)
    owner: str | None = Field(default=None, max_length=255)
    """The customer whose order it is about; None: operators alone may read it."""
    status: str = Field(default=MailStatus.PENDING, sa_type=String(16))
    smtp_answer: str | None = Field(default=None, max_length=ANSWER_LENGTH)
    created_at: int = Field(sa_type=BigInteger)
    sent_at: int | None = Field(default=None, sa_type=BigInteger)


metadata = Base.metadata
_mails: Any = Mail.__table__  # type: ignore[attr-defined]


async def load_mails(session: AsyncSession, commands: Sequence[DeliverMail]) -> Iterable[Mail]:
    """The mails that the commands name."""
    return await load(session, Mail, (command.mail_id for command in commands))


async def mail(session: AsyncSession, mail_id: UUID) -> Mail | None:
    """One mail."""
    return next(iter(await load(session, Mail, [mail_id])), None)


def mails(owner: str | None, order_id: UUID | None, status: str | None) -> Any:
    """The mails of one owner or of all, about one order or all, in one status or any."""
    query: Any = select(Mail)
    for column, value in ((_mails.c.owner, owner), (_mails.c.order_id, order_id), (_mails.c.status, status)):
        query = query if value is None else query.where(column == value)
    return query


async def failed(session: AsyncSession, wanted: ResendMails) -> Sequence[Mail]:
    """The next failed mails that a command selects, oldest first, locked."""
    query = select(Mail).where(_mails.c.status == MailStatus.FAILED)
    if wanted.failed_since:  # ids grow with time
        query = query.where(_mails.c.id >= first_id(int(wanted.failed_since.timestamp() * 1000)))
    else:
        query = query.where(_mails.c.id.in_(wanted.ids))
    if wanted.after:
        query = query.where(_mails.c.id > wanted.after)
    return (await session.scalars(query.order_by(_mails.c.id).limit(RESENT_AT_ONCE).with_for_update())).all()
