"""Revoked tokens."""

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import BigInteger, case, delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Field

from services.gateway.store import Base
from shared.http.auth import LEEWAY_SECONDS, Caller
from shared.http.problems import Problem
from shared.messaging.inbox import INSERTS
from shared.persistence import clock
from shared.persistence.database import Database

LOOK_SECONDS = 2.0
"""How long another gateway may still accept a token that was revoked at one."""
DAY = 86_400_000
LISTED = 1_000
_LATER = ("before", "until")


class Revocation(Base, table=True):
    """A revoked token, or all tokens of a subject that were issued before `before` (epoch milliseconds). `id` is
    `token ID` or `subject NAME`. The row is deleted at `until`: by then all these tokens have expired."""

    __tablename__ = "revocations"

    id: str = Field(primary_key=True, max_length=264)
    before: int = Field(sa_type=BigInteger)
    by: str = Field(max_length=255)
    at: int = Field(sa_type=BigInteger)
    until: int = Field(sa_type=BigInteger)


class Revoked:
    """The revocations that this process knows."""

    def __init__(self) -> None:
        self._before: dict[str, int] | None = None  # None: not read yet

    async def read(self, session: AsyncSession) -> None:
        """Read all rows: a revocation may change an old row, and may become visible after a later one."""
        rows = await session.execute(select(Revocation.id, Revocation.before))  # type: ignore[call-overload]
        self._before = {row.id: row.before for row in rows}

    async def look(self, database: Database) -> None:
        """Read all revocations, and delete those whose time is over. During an outage what was read before holds."""
        overdue: Any = Revocation.until
        async with database.reading() as session:
            await self.read(session)
            is_overdue = await session.scalar(select(func.min(overdue) < clock.of_database(session)))
        if is_overdue:
            async with database.transaction() as session:
                await session.execute(delete(Revocation).where(overdue < clock.of_database(session)))

    def demand_good(self, who: Caller) -> None:
        """Raises `Problem` 401 for a token that is revoked, and 503 until it is known which are."""
        if self._before is None:
            raise Problem(503, "unavailable", "It is not known yet which tokens are revoked; try again.")
        if not self.is_good(who):
            raise Problem(401, "token_revoked", "The token was revoked: get another one.")

    def is_good(self, who: Caller) -> bool:
        """Whether a token is not revoked, as far as this process knows. Open streams ask this again and again."""
        before = self._before or {}
        is_revoked = who.token_id is not None and f"token {who.token_id}" in before
        return not is_revoked and who.issued_at * 1000 >= before.get(f"subject {who.subject}", 0)


async def revoke(session: AsyncSession, id_: str, by: str, before: int | None, days: float) -> Revocation:
    """Revoke a token or the tokens of a subject. The row stays for `days`, the longest life of a token.

    Of a subject, tokens issued before `before` (epoch milliseconds) are revoked. The default is now plus the leeway,
    because an issuer's clock may run ahead. An earlier revocation is never taken back: the later time stays."""
    at = await clock.read(session)
    latest = at + LEEWAY_SECONDS * 1000
    wanted = Revocation(
        id=id_,
        before=latest if before is None else max(0, min(before, latest)),
        by=by,
        at=at,
        until=at + round((days + 1) * DAY),
    )
    adding: Any = INSERTS[session.get_bind().dialect.name](Revocation).values(**wanted.model_dump())
    new, old = adding.excluded, cast(Any, Revocation)
    later = {name: case((new[name] > getattr(old, name), new[name]), else_=getattr(old, name)) for name in _LATER}
    await session.execute(
        adding.on_conflict_do_update(index_elements=["id"], set_={"by": new.by, "at": new.at, **later})
    )
    return (await session.scalars(select(Revocation).where(old.id == id_))).one()


async def newest(session: AsyncSession) -> Sequence[Revocation]:
    """The newest revocations."""
    rows = select(Revocation).order_by(Revocation.at.desc()).limit(LISTED)  # type: ignore[attr-defined]
    return (await session.scalars(rows)).all()
