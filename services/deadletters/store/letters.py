"""Dead letters: what a letter says, what it carries, and which letters belong together.

Lists, groups and searches of a hundred thousand letters do not read the table `contents`, which has the bodies.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, Column, LargeBinary, Text, delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Field

from contracts.deadletters import LetterFilter
from services.deadletters.store.base import Base
from shared.messaging.inbox import INSERTS
from shared.persistence.clock import moment, now
from shared.persistence.database import Database, load

FINISHED = ("DONE", "REPLACED")
GROUPS_SHOWN = 200
EXPORTED_AT_ONCE = 200
REMOVED_AT_ONCE = 2_000


class Letter(Base, table=True):
    """A dead letter. Times are epoch milliseconds; `id` is a UUIDv7, so it grows with the time of collecting.

    `number` is how many times the letter was sent again, the last time by the action `action_id`. `history` lists what
    was done with the letter, each entry with `at`, `what` and further fields. `text` is for searches, in lower case.
    """

    __tablename__ = "letters"

    id: UUID = Field(primary_key=True)
    lane: str = Field(max_length=64)
    message: str = Field(max_length=255)
    group_id: str = Field(max_length=12)
    message_id: str | None = Field(default=None, max_length=255)
    correlation_id: str | None = Field(default=None, max_length=255)
    order_id: UUID | None = None
    reason: str
    exception: str | None = Field(default=None, max_length=255)
    attempts: int
    first_at: int = Field(sa_type=BigInteger)
    last_at: int = Field(sa_type=BigInteger)
    service: str | None = Field(default=None, max_length=64)
    version: str | None = Field(default=None, max_length=64)
    host: str | None = Field(default=None, max_length=255)
    size: int
    state: str = Field(max_length=16)
    number: int = 0
    action_id: UUID | None = None
    settled_at: int | None = Field(default=None, sa_type=BigInteger)
    history: list[dict[str, Any]] = Field(sa_column=Column(JSON, nullable=False))
    text: str = Field(sa_column=Column(Text, nullable=False))


class Content(Base, table=True):
    """The content of a letter: its body as it arrived, its properties and headers."""

    __tablename__ = "contents"

    letter_id: UUID = Field(primary_key=True)
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    properties: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    headers: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    traceback: str | None = Field(default=None, sa_column=Column(Text))


class Group(Base, table=True):
    """Letters that have the same lane, message and reason. `reason` has placeholders for what varies; see
    `domain.pattern`."""

    __tablename__ = "letter_groups"

    id: str = Field(primary_key=True, max_length=12)
    lane: str = Field(max_length=64)
    message: str = Field(max_length=255)
    reason: str


_letters: Any = Letter.__table__  # type: ignore[attr-defined]
_contents: Any = Content.__table__  # type: ignore[attr-defined]
_groups: Any = Group.__table__  # type: ignore[attr-defined]


async def insert_letters(session: AsyncSession, letters: Sequence[Letter], contents: Sequence[Content]) -> None:
    """Insert letters and their contents."""
    if letters:
        await session.execute(insert(_letters), [letter.model_dump() for letter in letters])
        await session.execute(insert(_contents), [content.model_dump() for content in contents])


async def insert_groups(session: AsyncSession, groups: Iterable[Group]) -> None:
    """Insert the groups that are not known yet."""
    rows = {group.id: group.model_dump() for group in groups}
    if rows:  # in the same order in all processes, so that they do not deadlock
        name = INSERTS[session.get_bind().dialect.name](_groups).on_conflict_do_nothing()
        await session.execute(name, [rows[id_] for id_ in sorted(rows)])


def select_letters(wanted: LetterFilter) -> Any:
    """The letters that a filter selects; without a `state`, the waiting ones."""
    query: Any = select(Letter).where(_letters.c.state == (wanted.state or "WAITING"))
    columns = {
        "lane": _letters.c.lane,
        "message": _letters.c.message,
        "group": _letters.c.group_id,
        "order_id": _letters.c.order_id,
        "job_id": _letters.c.correlation_id,
    }
    for name, column in columns.items():
        if (value := getattr(wanted, name)) is not None:
            query = query.where(column == value)
    if wanted.text is not None:
        query = query.where(_letters.c.text.contains(wanted.text.casefold(), autoescape=True))
    return query


async def groups(session: AsyncSession, wanted: LetterFilter) -> tuple[list[dict[str, Any]], bool, int]:
    """The largest groups of the letters that a filter selects, each with `group`, `count`, `first_at` and `last_at`;
    whether there are more groups; and the number of letters in all groups."""
    counts = (func.count().label("count"), func.min(_letters.c.first_at), func.max(_letters.c.last_at))
    total = func.sum(func.count()).over()
    query = select_letters(wanted).with_only_columns(_letters.c.group_id, *counts, total).group_by(_letters.c.group_id)
    query = query.order_by(counts[0].desc(), _letters.c.group_id).limit(GROUPS_SHOWN + 1)
    rows = (await session.execute(query)).all()
    found = rows[:GROUPS_SHOWN]
    names = {group.id: group for group in await load(session, Group, [row[0] for row in found])}
    shown = [{"group": names[id_], "count": count, "first_at": a, "last_at": z} for id_, count, a, z, _ in found]
    return shown, len(rows) > len(found), int(rows[0][-1]) if rows else 0


async def letter(session: AsyncSession, letter_id: UUID, *, lock: bool = False) -> tuple[Letter, Content] | None:
    """One letter and its content."""
    found, carried = await load(session, Letter, [letter_id], lock=lock), await load(session, Content, [letter_id])
    return (found[0], carried[0]) if found and carried else None


async def each(database: Database, wanted: LetterFilter) -> AsyncIterator[tuple[Letter, Content]]:
    """All letters that a filter selects, oldest first. Each page is a transaction of its own, so that a slow
    client does not keep one open."""
    last = UUID(int=0)
    while True:
        query = select_letters(wanted).where(_letters.c.id > last).order_by(_letters.c.id).limit(EXPORTED_AT_ONCE)
        async with database.reading() as session:
            page = (await session.scalars(query)).all()
            carried = {row.letter_id: row for row in await load(session, Content, [found.id for found in page])}
        for found in page:
            if found.id in carried:
                yield found, carried[found.id]
        if len(page) < EXPORTED_AT_ONCE:
            return
        last = page[-1].id


async def count_waiting(session: AsyncSession) -> dict[str, int]:
    """The number of waiting letters by lane."""
    query = select(_letters.c.lane, func.count().label("number")).where(_letters.c.state == "WAITING")
    return {row.lane: row.number for row in await session.execute(query.group_by(_letters.c.lane))}


async def contents(session: AsyncSession, letters: Sequence[Letter]) -> dict[UUID, Content]:
    """The contents of letters, by the letter's id."""
    return {row.letter_id: row for row in await load(session, Content, (letter.id for letter in letters))}


async def remove(session: AsyncSession, ids: Sequence[UUID]) -> None:
    """Delete letters and their contents."""
    for table, column in ((_contents, _contents.c.letter_id), (_letters, _letters.c.id)):
        await session.execute(delete(table).where(column.in_(ids)))


def log(letter: Letter, what: str, **more: Any) -> None:
    """Add an entry to a letter's history."""
    letter.history = [*letter.history, {"at": moment(now()).isoformat(), "what": what, **more}]
