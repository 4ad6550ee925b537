"""The deadletters service's tables and its only SQL.

Lists, groups and searches of a hundred thousand letters read no `contents`: what they carry, byte by byte.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, Column, LargeBinary, Text, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel
from uuid_utils.compat import uuid7

from contracts.base import Envelope
from contracts.deadletters import CancelReplay, LetterFilter, Selection
from contracts.email import DeliverMail, MailDigest
from contracts.flow import LANES
from contracts.jobs import LetterSettled
from services.deadletters.domain import Standing
from shared.messaging.inbox import INSERTS
from shared.persistence import clock
from shared.persistence.clock import moment, now
from shared.persistence.database import Database, load, one_process_at_a_time
from shared.persistence.table import TableModel

FINISHED = ("DONE", "REPLACED")
GROUPS_SHOWN = 200
EXPORTED_AT_ONCE = 200
REMOVED_AT_ONCE = 2_000


class Base(TableModel, registry=registry()):
    """This service's own metadata."""


class Letter(Base, table=True):
    """A dead letter. Times are epoch milliseconds; `id` is a UUIDv7, so it grows with the time of collecting.

    `number` counts how often it was sent again, last by the action `action_id`. `history` has what was done with it:
    `at`, `what`, and whatever else there is to say. `text` is what can be searched, in lower case.
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
    """What a letter carries: its body, byte by byte, its properties and headers."""

    __tablename__ = "contents"

    letter_id: UUID = Field(primary_key=True)
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    properties: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    headers: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    traceback: str | None = Field(default=None, sa_column=Column(Text))


class Group(Base, table=True):
    """Letters that belong together: a lane, a message, and a reason without what differs."""

    __tablename__ = "letter_groups"

    id: str = Field(primary_key=True, max_length=12)
    lane: str = Field(max_length=64)
    message: str = Field(max_length=255)
    reason: str


class Action(Base, table=True):
    """What an operator did, and how it ended: `kind` is replay, edit, purge or cancel. Never removed.

    Its id is its job's. `cursor` is the last letter that a replay or a purge took, `until_id` a bound: what is
    collected later is not meant. `told` is how far its job was last told that it is.
    """

    __tablename__ = "actions"

    id: UUID = Field(primary_key=True)
    kind: str = Field(max_length=16)
    by: str = Field(max_length=255)
    at: int = Field(sa_type=BigInteger)
    wish: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    status: str = Field(max_length=16)
    detail: str | None = None
    total: int | None = None
    sent: int = 0
    done: int = 0
    failed: int = 0
    told: int = 0
    is_exhausted: bool = False
    rate: float | None = None
    paced_at: int = Field(default=0, sa_type=BigInteger)
    cursor: UUID | None = None
    until_id: UUID | None = None
    traceparent: str | None = Field(default=None, max_length=64)
    ended_at: int | None = Field(default=None, sa_type=BigInteger)

    @property
    def standing(self) -> Standing:
        assert self.rate, "only a replay has one"
        return Standing(self.sent, self.done, self.failed, self.is_exhausted, self.rate, self.paced_at)

    @property
    def settled(self) -> int:
        """Of how many letters it is known how they ended."""
        return self.done + self.failed

    @property
    def not_sent(self) -> int:
        return max((self.total or 0) - self.sent, 0)

    def end(self, status: str, detail: str | None = None) -> None:
        """What an edit sent was for the step that sent it: bodies are about people, and actions are kept for ever."""
        self.status, self.detail, self.ended_at = status, detail, now()
        self.wish = {name: said for name, said in self.wish.items() if name != "body"}

    def envelope(self) -> Envelope:
        """What is said of it belongs to its job."""
        key, id_ = f"letters.{self.kind}.v1", str(self.id)
        return Envelope(id_, id_, key, "gateway", moment(self.at), traceparent=self.traceparent)


class Digest(Base, table=True):
    """A mail to the operators. While `sent_at` is None it counts the letters that have come since the last one, the
    first of them at `since`. Its id is the `correlation_id` of all that sends it."""

    __tablename__ = "digests"

    id: UUID = Field(primary_key=True)
    letters: int
    since: int = Field(sa_type=BigInteger)
    sent_at: int | None = Field(default=None, sa_type=BigInteger, index=True)

    def envelope(self) -> Envelope:
        return Envelope(str(self.id), str(self.id), MailDigest.key, "deadletters", moment(self.since))


metadata = Base.metadata
_letters: Any = Letter.__table__  # type: ignore[attr-defined]
_contents: Any = Content.__table__  # type: ignore[attr-defined]
_groups: Any = Group.__table__  # type: ignore[attr-defined]
_actions: Any = Action.__table__  # type: ignore[attr-defined]
_digests: Any = Digest.__table__  # type: ignore[attr-defined]


# -- collecting -------------------------------------------------------------------------------------------------------


async def keep(session: AsyncSession, letters: Sequence[Letter], contents: Sequence[Content]) -> None:
    """Insert letters with what they carry."""
    if letters:
        await session.execute(insert(_letters), [letter.model_dump() for letter in letters])
        await session.execute(insert(_contents), [content.model_dump() for content in contents])


async def name_groups(session: AsyncSession, groups: Iterable[Group]) -> None:
    """Write down groups that are not known yet."""
    rows = {group.id: group.model_dump() for group in groups}
    if rows:  # in one order in all processes, so that no two of them wait for each other crosswise
        name = INSERTS[session.get_bind().dialect.name](_groups).on_conflict_do_nothing()
        await session.execute(name, [rows[id_] for id_ in sorted(rows)])


# -- telling operators ------------------------------------------------------------------------------------------------


async def count_new(session: AsyncSession, letters: Sequence[Letter]) -> None:
    """Count letters for the next digest, but for those of a digest: one that cannot be sent must not cause another."""
    mails = [letter for letter in letters if letter.message in (MailDigest.key, DeliverMail.key)]
    of_digests = {str(row.id) for row in await load(session, Digest, jobs_of(mails))}
    if not (number := sum(letter.correlation_id not in of_digests for letter in letters)):
        return
    first = select(_digests.c.id).where(_digests.c.sent_at.is_(None)).order_by(_digests.c.id).limit(1)
    here = (_digests.c.id == first.scalar_subquery(), _digests.c.sent_at.is_(None))  # one: there may be two, see `news`
    add = update(_digests).where(*here).values(letters=_digests.c.letters + number)
    if not (await session.execute(add)).rowcount:  # type: ignore[attr-defined]
        session.add(Digest(id=uuid7(), letters=number, since=now()))


async def has_news(session: AsyncSession) -> bool:
    """Whether letters have come that nobody was told of."""
    return (await session.scalars(_unsent().limit(1))).first() is not None


async def news(session: AsyncSession) -> tuple[Sequence[Digest], int | None]:
    """What is gathered, locked, one process at a time (two that began at once leave two rows); and when a digest was
    sent last."""
    await one_process_at_a_time(session, ["digest"])
    gathered = (await session.scalars(_unsent().order_by(_digests.c.id).with_for_update())).all()
    return gathered, await session.scalar(select(func.max(_digests.c.sent_at)))


def _unsent() -> Any:
    return select(Digest).where(_digests.c.sent_at.is_(None))


def jobs_of(letters: Iterable[Letter]) -> set[UUID]:
    """What letters belong to, where that is an id as we give them."""
    found = set()
    for letter in letters:
        with suppress(ValueError):
            found.add(UUID(letter.correlation_id or ""))
    return found


# -- looking ----------------------------------------------------------------------------------------------------------


def matching(wanted: LetterFilter) -> Any:
    """The letters that a filter means: those that wait, unless it says otherwise."""
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
    """The largest groups of the letters that a filter means, `group`, `count`, `first_at`, `last_at`; whether there
    are more; and how many letters are in all of them."""
    counts = (func.count().label("count"), func.min(_letters.c.first_at), func.max(_letters.c.last_at))
    total = func.sum(func.count()).over()
    query = matching(wanted).with_only_columns(_letters.c.group_id, *counts, total).group_by(_letters.c.group_id)
    query = query.order_by(counts[0].desc(), _letters.c.group_id).limit(GROUPS_SHOWN + 1)
    rows = (await session.execute(query)).all()
    found = rows[:GROUPS_SHOWN]
    names = {group.id: group for group in await load(session, Group, [row[0] for row in found])}
    shown = [{"group": names[id_], "count": count, "first_at": a, "last_at": z} for id_, count, a, z, _ in found]
    return shown, len(rows) > len(found), int(rows[0][-1]) if rows else 0


async def letter(session: AsyncSession, letter_id: UUID, *, lock: bool = False) -> tuple[Letter, Content] | None:
    """One letter, with what it carries."""
    found, carried = await load(session, Letter, [letter_id], lock=lock), await load(session, Content, [letter_id])
    return (found[0], carried[0]) if found and carried else None


async def each(database: Database, wanted: LetterFilter) -> AsyncIterator[tuple[Letter, Content]]:
    """All letters that a filter means, oldest first, read in pages: no transaction lasts as long as its reader."""
    last = UUID(int=0)
    while True:
        query = matching(wanted).where(_letters.c.id > last).order_by(_letters.c.id).limit(EXPORTED_AT_ONCE)
        async with database.reading() as session:
            page = (await session.scalars(query)).all()
            carried = {row.letter_id: row for row in await load(session, Content, [found.id for found in page])}
        for found in page:
            if found.id in carried:
                yield found, carried[found.id]
        if len(page) < EXPORTED_AT_ONCE:
            return
        last = page[-1].id


async def waiting(session: AsyncSession) -> dict[str, int]:
    """How many letters wait, by lane."""
    query = select(_letters.c.lane, func.count().label("number")).where(_letters.c.state == "WAITING")
    return {row.lane: row.number for row in await session.execute(query.group_by(_letters.c.lane))}


def actions() -> Any:
    """All that operators did."""
    return select(Action)


# -- doing ------------------------------------------------------------------------------------------------------------


async def load_letters_and_replays(
    session: AsyncSession, messages: Sequence[CancelReplay | LetterSettled]
) -> Iterable[SQLModel]:
    """The letters and replays that messages are about, locked."""
    letters = {message.letter_id for message in messages if isinstance(message, LetterSettled)}
    replays = {message.replay_id for message in messages if isinstance(message, CancelReplay)}
    actions, found = await sent(session, letters, replays)
    return [*actions, *found]


async def sent(
    session: AsyncSession, letters: Collection[UUID], replays: Collection[UUID] = ()
) -> tuple[Sequence[Action], Sequence[Letter]]:
    """Letters, and what sent them again, with these `replays`; locked in one order: that of `step`."""
    sent_by = select(_letters.c.action_id).where(_letters.c.id.in_(letters), _letters.c.action_id.is_not(None))
    actions = {*replays, *((await session.scalars(sent_by)).all() if letters else ())}
    return await load(session, Action, actions, lock=True), await load(session, Letter, letters, lock=True)


async def running(session: AsyncSession) -> Sequence[UUID]:
    """The replays and purges that have not ended."""
    return (await session.scalars(select(_actions.c.id).where(_actions.c.ended_at.is_(None)))).all()


async def held(session: AsyncSession, action_id: UUID) -> Action | None:
    """A replay or purge that has not ended, locked; None if another process is at it."""
    query = select(Action).where(_actions.c.id == action_id, _actions.c.ended_at.is_(None))
    return (await session.scalars(query.with_for_update(skip_locked=True))).first()


async def count(session: AsyncSession, action: Action) -> int:
    """How many letters an action means, by now."""
    meant = _meant(action).with_only_columns(func.count())
    return int(await session.scalar(meant) or 0)


async def next_ones(session: AsyncSession, action: Action, limit: int) -> list[Letter]:
    """The next letters of an action, oldest first, locked. The cursor passes each once, whatever becomes of it."""
    query = _meant(action).with_only_columns(_letters.c.id, _letters.c.number).order_by(_letters.c.id).limit(limit)
    rows = (await session.execute(query.where(_letters.c.id > (action.cursor or UUID(int=0))))).all()
    numbers = {row.id: row.number for row in rows}
    action.cursor = rows[-1].id if rows else action.cursor
    action.is_exhausted = len(rows) < limit
    # Between the two queries another action may have had them.
    found, states = await load(session, Letter, numbers, lock=True), _states(action)
    return [letter for letter in found if letter.state in states and letter.number == numbers[letter.id]]


def _meant(action: Action) -> Any:
    selection = _selection(action)
    wanted = selection.filter or LetterFilter()
    query: Any = select(Letter).where(_letters.c.id.in_(selection.ids)) if selection.ids else matching(wanted)
    query = query.where(_letters.c.id <= action.until_id, _letters.c.state.in_(_states(action)))
    if action.kind == "replay":
        query = query.where(_letters.c.lane.in_(LANES))  # of one that is there no more, nothing can be sent
    # What is on its way is left to the replay that sent it, as long as that counts on its outcome.
    ended = select(_actions.c.id).where(_actions.c.ended_at.is_not(None))
    return query.where(or_(_letters.c.state != "SENT", _letters.c.action_id.in_(ended)))


def _states(action: Action) -> Collection[str]:
    if action.kind != "replay":
        return ("WAITING", "SENT", *FINISHED)
    wanted = _selection(action).filter
    return ("SENT",) if wanted and wanted.state == "SENT" else ("WAITING",)


def _selection(action: Action) -> Selection:
    return Selection.model_validate(action.wish["selection"])


async def contents(session: AsyncSession, letters: Sequence[Letter]) -> dict[UUID, Content]:
    """What letters carry."""
    return {row.letter_id: row for row in await load(session, Content, (letter.id for letter in letters))}


async def remove(session: AsyncSession, ids: Sequence[UUID]) -> None:
    """Remove letters for good."""
    for table, column in ((_contents, _contents.c.letter_id), (_letters, _letters.c.id)):
        await session.execute(delete(table).where(column.in_(ids)))


async def forget(database: Database, keep_days: float) -> int:
    """Remove some letters that were done or replaced long ago; return how many. Call again until it is none."""
    finished = or_(*(_letters.c.state == state for state in FINISHED))
    async with database.transaction() as session:
        old = clock.of_database(session) - int(keep_days * 86_400_000)
        query = select(_letters.c.id).where(finished, _letters.c.settled_at < old).limit(REMOVED_AT_ONCE)
        query = query.with_for_update(skip_locked=True)  # not those that another process is at
        ids = (await session.scalars(query)).all()
        await remove(session, ids)
        await session.execute(delete(_digests).where(_digests.c.sent_at < old))
    return len(ids)


def tell(letter: Letter, what: str, **more: Any) -> None:
    """Add to a letter's history."""
    letter.history = [*letter.history, {"at": moment(now()).isoformat(), "what": what, **more}]
