"""The email service's table and its only SQL."""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, String, Text, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import registry
from sqlmodel import Field

from contracts.email import DeliverMail
from services.email.domain import ANSWER_LENGTH
from shared.database import load
from shared.table import TableModel


class Base(TableModel, registry=registry()):
    """This service's own metadata."""


class MailStatus(StrEnum):
    PENDING = "PENDING"  # written down; not sent, or not known to be
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
    status: str = Field(default=MailStatus.PENDING, sa_type=String(16))
    smtp_answer: str | None = Field(default=None, max_length=ANSWER_LENGTH)
    created_at: int = Field(sa_type=BigInteger)
    sent_at: int | None = Field(default=None, sa_type=BigInteger)


metadata = Base.metadata


async def due(session: AsyncSession, commands: Sequence[DeliverMail]) -> Iterable[Mail]:
    """The mails that are to be sent."""
    return await load(session, Mail, (command.mail_id for command in commands))


async def mail(session: AsyncSession, mail_id: UUID) -> Mail | None:
    """One mail."""
    return next(iter(await load(session, Mail, [mail_id])), None)


def mails(order_id: UUID | None) -> Any:
    """The mails about one order, or all."""
    query: Any = select(Mail)
    return query.where(Mail.order_id == order_id) if order_id else query
