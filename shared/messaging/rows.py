"""A message as a row: what the outbox and the table of messages for later have in common."""

from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, Column, LargeBinary, String

from contracts.base import Envelope
from shared.messaging import inbox
from shared.messaging.publisher import Outgoing


def columns() -> list[Column[Any]]:
    """The columns that both tables begin with."""
    return [
        Column("message_id", String(36), primary_key=True),
        Column("exchange", String(64), nullable=False),
        Column("key", String(128), nullable=False),
        Column("correlation_id", String(inbox.ID_LENGTH), nullable=False),
        Column("causation_id", String(inbox.ID_LENGTH)),
        Column("traceparent", String(64)),
        Column("mandatory", Boolean, nullable=False),
        Column("body", LargeBinary, nullable=False),
    ]


def to_row(message: Outgoing) -> dict[str, object]:
    """The values of `columns`."""
    envelope = message.envelope
    return {
        "message_id": envelope.message_id,
        "exchange": message.exchange,
        "key": envelope.key,
        "correlation_id": envelope.correlation_id,
        "causation_id": envelope.causation_id,
        "traceparent": envelope.traceparent,
        "mandatory": message.mandatory,
        "body": message.body,
    }


def from_row(row: Any, sender: str, sent_at: datetime, **more: Any) -> Outgoing:
    """A message as its transaction sent it; `more` are fields of `Outgoing` that only one of the tables has."""
    envelope = Envelope(
        message_id=row.message_id,
        correlation_id=row.correlation_id,
        causation_id=row.causation_id,
        key=row.key,
        sender=sender,
        sent_at=sent_at,
        traceparent=row.traceparent,
    )
    return Outgoing(envelope, row.exchange, row.body, row.mandatory, **more)
