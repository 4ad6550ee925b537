"""Digests: mails that tell operators how many new dead letters there are."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Field
from uuid_utils.compat import uuid7

from contracts.base import Envelope
from contracts.email import DeliverMail, MailDigest
from services.deadletters.store.base import Base
from services.deadletters.store.letters import Letter
from shared.persistence.clock import moment, now
from shared.persistence.database import load, one_process_at_a_time


class Digest(Base, table=True):
    """A mail to the operators. While `sent_at` is None, `letters` counts the letters that arrived after the last
    digest, the first of them at `since`. `id` is the `correlation_id` of the messages that send the mail."""

    __tablename__ = "digests"

    id: UUID = Field(primary_key=True)
    letters: int
    since: int = Field(sa_type=BigInteger)
    sent_at: int | None = Field(default=None, sa_type=BigInteger, index=True)

    def envelope(self) -> Envelope:
        return Envelope(str(self.id), str(self.id), MailDigest.key, "deadletters", moment(self.since))


_digests: Any = Digest.__table__  # type: ignore[attr-defined]


async def count_new(session: AsyncSession, letters: Sequence[Letter]) -> None:
    """Count letters for the next digest. Letters of a digest do not count: one that cannot be sent must not cause
    another digest."""
    mails = [letter for letter in letters if letter.message in (MailDigest.key, DeliverMail.key)]
    of_digests = {str(row.id) for row in await load(session, Digest, jobs_of(mails))}
    if not (number := sum(letter.correlation_id not in of_digests for letter in letters)):
        return
    first = select(_digests.c.id).where(_digests.c.sent_at.is_(None)).order_by(_digests.c.id).limit(1)
    here = (_digests.c.id == first.scalar_subquery(), _digests.c.sent_at.is_(None))  # two may exist, see `lock_unsent`
    add = update(_digests).where(*here).values(letters=_digests.c.letters + number)
    if not (await session.execute(add)).rowcount:  # type: ignore[attr-defined]
        session.add(Digest(id=uuid7(), letters=number, since=now()))


async def has_unsent(session: AsyncSession) -> bool:
    """Whether letters arrived of which operators were not notified."""
    return (await session.scalars(_unsent().limit(1))).first() is not None


async def lock_unsent(session: AsyncSession) -> tuple[Sequence[Digest], int | None]:
    """The digests that are not sent, locked by one process at a time, and when a digest was last sent (epoch
    milliseconds). Two digests are unsent if two processes inserted one at the same time."""
    await one_process_at_a_time(session, ["digest"])
    gathered = (await session.scalars(_unsent().order_by(_digests.c.id).with_for_update())).all()
    return gathered, await session.scalar(select(func.max(_digests.c.sent_at)))


def _unsent() -> Any:
    return select(Digest).where(_digests.c.sent_at.is_(None))


def jobs_of(letters: Iterable[Letter]) -> set[UUID]:
    """The jobs of letters, for each letter whose `correlation_id` is a UUID."""
    found = set()
    for letter in letters:
        with suppress(ValueError):
            found.add(UUID(letter.correlation_id or ""))
    return found
