"""What was done and what is being tried: the inbox keeps effects single, the attempts table finds killers.

All functions work inside the caller's transaction.
"""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Index,
    Integer,
    String,
    Table,
    Text,
    bindparam,
    case,
    cast,
    delete,
    func,
    literal,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncSession

from shared.persistence import clock
from shared.persistence.database import among, kernel_metadata

INSERTS: dict[str, Any] = {"postgresql": postgresql_insert, "sqlite": sqlite_insert}
ID_LENGTH = 255  # AMQP's short string

inbox = Table(
    "inbox",
    kernel_metadata,
    Column("message_id", String(ID_LENGTH), primary_key=True),
    Column("lane", String(64), primary_key=True),
    Column("received_at", BigInteger, nullable=False),
    Index("ix_inbox_received_at", "received_at"),
)
attempts = Table(
    "attempts",
    kernel_metadata,
    Column("message_id", String(ID_LENGTH), primary_key=True),
    Column("lane", String(64), primary_key=True),
    Column("owner", String(36), nullable=False),
    Column("before", String(36)),
    Column("tries", Integer, nullable=False),
)


def _unnest() -> Any:
    return func.unnest(bindparam("ids", type_=ARRAY(Text))).table_valued("id").render_derived()


def _json_each() -> Any:  # it would cut an id off at a NUL; such a message is refused before
    return func.json_each(bindparam("ids", type_=Text)).table_valued(Column("value", String))


_TABLES: dict[str, Callable[[], Any]] = {"postgresql": _unnest, "sqlite": _json_each}
_PARAMETERS: dict[str, Callable[[Collection[str]], Any]] = {
    "postgresql": sorted,
    "sqlite": lambda ids: json.dumps(sorted(ids)),
}
"""The ids of any number of messages as one parameter. In one order in all processes, so that two of them with the same
messages never wait for each other crosswise."""


def _insert(dialect: str, table: Table, **values: ColumnElement[Any]) -> Any:
    """Insert a row for each message: one and the same statement for any number of them."""
    of = _TABLES[dialect]()
    rows = select(*of.c, *values.values()).select_from(of).where(true())  # or SQLite would take ON for a join's
    return INSERTS[dialect](table).from_select(["message_id", *values], rows)


@cache
def _claim(dialect: str) -> Any:
    """Built once: to put it together costs about as much as to run it."""
    seconds = cast(clock.of_dialect(dialect) / 1000, BigInteger)
    insert = _insert(dialect, inbox, lane=bindparam("of_lane", type_=inbox.c.lane.type), received_at=seconds)
    return insert.on_conflict_do_nothing().returning(inbox.c.message_id)


async def claim(session: AsyncSession, lane: str, ids: Collection[str]) -> set[str]:
    """Write down messages as done by this transaction; return those that were not done before."""
    dialect = session.get_bind().dialect.name
    about = {"ids": _PARAMETERS[dialect](ids), "of_lane": lane}
    return set((await session.scalars(_claim(dialect), about)).all())


async def done(session: AsyncSession, lane: str, ids: Collection[str]) -> set[str]:
    """Those of the messages that were done before."""
    query = select(inbox.c.message_id).where(inbox.c.lane == lane, among(session, inbox.c.message_id, ids))
    return set((await session.scalars(query)).all())


async def old_enough(session: AsyncSession, keep_days: int, every: float) -> int:
    """Up to when messages may be forgotten by whoever looks every so many seconds, see `clock.old_enough`."""
    return await clock.old_enough(session, inbox.c.received_at, keep_days * 86_400, every, per_second=1)


async def forget_old(session: AsyncSession, before: int, limit: int) -> int:
    """Delete some of what was received before that time; return how many. Call again while it returns `limit`."""
    old = select(inbox.c.message_id, inbox.c.lane).where(inbox.c.received_at < before)
    some = old.limit(limit).with_for_update(skip_locked=True)  # not those that another process is at
    forget = delete(inbox).where(tuple_(inbox.c.message_id, inbox.c.lane).in_(some))
    return int((await session.execute(forget)).rowcount)  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Attempt:
    """By how many processes a try is written without an outcome, this one included; and which was the one before."""

    tries: int
    before: str | None


async def begin_attempts(session: AsyncSession, lane: str, ids: Collection[str], owner: str) -> dict[str, Attempt]:
    """Write down that the process `owner` is about to try each of these messages alone, and lock what is written.

    What the same process wrote before, such as before an outage, does not count again: no process died of it.
    """
    dialect = session.get_bind().dialect.name
    insert = _insert(
        dialect, attempts, lane=literal(lane, String), owner=literal(owner, String), tries=literal(1, Integer)
    )
    is_ours = attempts.c.owner == insert.excluded.owner
    begin = insert.on_conflict_do_update(
        index_elements=["message_id", "lane"],
        set_={
            "tries": attempts.c.tries + case((is_ours, 0), else_=1),
            "before": case((is_ours, None), else_=attempts.c.owner),
            "owner": insert.excluded.owner,
        },
    ).returning(attempts.c.message_id, attempts.c.tries, attempts.c.before)
    found = await session.execute(begin, {"ids": _PARAMETERS[dialect](ids)})
    return {row.message_id: Attempt(row.tries, row.before) for row in found.all()}


async def tries(session: AsyncSession, lane: str, ids: Collection[str], owner: str) -> dict[str, int]:
    """What `begin_attempts` by the process `owner` would find for those of these messages that were tried before."""
    here = (attempts.c.lane == lane, among(session, attempts.c.message_id, ids))
    rows = await session.execute(select(attempts.c.message_id, attempts.c.tries, attempts.c.owner).where(*here))
    return {row.message_id: row.tries + (row.owner != owner) for row in rows.all()}


async def owned(session: AsyncSession, lane: str, ids: Collection[str], owner: str) -> set[str]:
    """Those of the messages whose attempt is still that of the process `owner`: nobody took it over or ended it."""
    here = (attempts.c.lane == lane, among(session, attempts.c.message_id, ids), attempts.c.owner == owner)
    return set((await session.scalars(select(attempts.c.message_id).where(*here))).all())


async def give_back(session: AsyncSession, lane: str, ids: Collection[str], owner: str) -> None:
    """Undo `begin_attempts` of the process `owner`: it does not try them now, or is cut short as it stops."""
    here = (among(session, attempts.c.message_id, ids), attempts.c.lane == lane, attempts.c.owner == owner)
    before = func.coalesce(attempts.c.before, "")  # or its next try would not count
    await session.execute(update(attempts).where(*here).values(owner=before, tries=attempts.c.tries - 1, before=None))


async def end_attempts(session: AsyncSession, lane: str, ids: Collection[str], owner: str | None = None) -> None:
    """The tries of these messages had an outcome, good or bad: those of the process `owner`, if it says nothing of a
    try by which another has taken a message over meanwhile."""
    if ids:
        here = [attempts.c.lane == lane, among(session, attempts.c.message_id, ids)]
        if owner is not None:
            here.append(attempts.c.owner == owner)
        await session.execute(delete(attempts).where(*here))
