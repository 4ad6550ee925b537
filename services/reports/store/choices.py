"""How a person wants to be notified."""

from collections.abc import Iterable, Sequence

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Field

from contracts.http.reports import NoticeChoice
from services.reports.store.base import Base
from shared.messaging.inbox import INSERTS
from shared.persistence.database import load


class Choice(Base, table=True):
    """How a reader (see `domain.reader`) wants to be notified. A reader without a row is notified in every way for
    which the service has an address."""

    __tablename__ = "choices"

    reader: str = Field(primary_key=True, max_length=256)
    mail: bool
    in_app: bool
    email: str | None = Field(default=None, max_length=254)
    locale: str = Field(max_length=8)


async def load_choices(session: AsyncSession, readers: Iterable[str]) -> Sequence[Choice]:
    """The choices of some readers."""
    return await load(session, Choice, readers)


async def save_choice(session: AsyncSession, reader: str, choice: NoticeChoice) -> None:
    """Insert or replace the choice of a reader."""
    values = choice.model_dump()
    insert = INSERTS[session.get_bind().dialect.name](Choice).values(reader=reader, **values)
    await session.execute(insert.on_conflict_do_update(index_elements=["reader"], set_=values))
