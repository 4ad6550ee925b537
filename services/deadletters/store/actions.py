"""What operators do with dead letters: replays, edits, purges and cancellations."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, Column, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Field, SQLModel

from contracts.base import Envelope
from contracts.deadletters import CancelReplay, LetterFilter, Selection
from contracts.flow import LANES
from contracts.jobs import LetterSettled
from services.deadletters.domain import Standing
from services.deadletters.store.base import Base
from services.deadletters.store.letters import FINISHED, Letter, select_letters
from shared.persistence.clock import moment, now
from shared.persistence.database import load


class Action(Base, table=True):
    """What an operator did, and how it ended: `kind` is replay, edit, purge or cancel. Rows are never deleted.

    `id` is the id of the action's job. `cursor` is the last letter that a replay or a purge took. Letters with an id
    above `until_id` were collected later and are not selected. `told` is the progress that the job was last sent.
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
    def finished(self) -> int:
        """The number of letters whose outcome is known."""
        return self.done + self.failed

    @property
    def not_sent(self) -> int:
        return max((self.total or 0) - self.sent, 0)

    def end(self, status: str, detail: str | None = None) -> None:
        """End the action. The body of an edit is deleted: bodies have personal data, and actions are kept for ever."""
        self.status, self.detail, self.ended_at = status, detail, now()
        self.wish = {name: value for name, value in self.wish.items() if name != "body"}

    def envelope(self) -> Envelope:
        """The cause of the messages that the action sends: they belong to its job."""
        key, id_ = f"letters.{self.kind}.v1", str(self.id)
        return Envelope(id_, id_, key, "gateway", moment(self.at), traceparent=self.traceparent)


_actions: Any = Action.__table__  # type: ignore[attr-defined]
_letters: Any = Letter.__table__  # type: ignore[attr-defined]


def select_actions() -> Any:
    """All actions of operators."""
    return select(Action)


async def load_letters_and_replays(
    session: AsyncSession, messages: Sequence[CancelReplay | LetterSettled]
) -> Iterable[SQLModel]:
    """The letters that the events are about, the actions that sent them, and the replays to cancel; all locked."""
    letters = {message.letter_id for message in messages if isinstance(message, LetterSettled)}
    replays = {message.replay_id for message in messages if isinstance(message, CancelReplay)}
    actions, found = await lock_sent(session, letters, replays)
    return [*actions, *found]


async def lock_sent(
    session: AsyncSession, letters: Collection[UUID], replays: Collection[UUID] = ()
) -> tuple[Sequence[Action], Sequence[Letter]]:
    """The actions that sent these letters again together with `replays`, and the letters. Locks are taken in the order
    of `handlers.step`: actions first."""
    sent_by = select(_letters.c.action_id).where(_letters.c.id.in_(letters), _letters.c.action_id.is_not(None))
    actions = {*replays, *((await session.scalars(sent_by)).all() if letters else ())}
    return await load(session, Action, actions, lock=True), await load(session, Letter, letters, lock=True)


async def list_running(session: AsyncSession) -> Sequence[UUID]:
    """The ids of the actions that have not ended."""
    return (await session.scalars(select(_actions.c.id).where(_actions.c.ended_at.is_(None)))).all()


async def lock_running(session: AsyncSession, action_id: UUID) -> Action | None:
    """An action that has not ended, locked; None if it has ended or another process has locked it."""
    query = select(Action).where(_actions.c.id == action_id, _actions.c.ended_at.is_(None))
    return (await session.scalars(query.with_for_update(skip_locked=True))).first()


async def count_selected(session: AsyncSession, action: Action) -> int:
    """The number of letters that an action selects now."""
    selected = _selected(action).with_only_columns(func.count())
    return int(await session.scalar(selected) or 0)


async def lock_next(session: AsyncSession, action: Action, limit: int) -> list[Letter]:
    """The next letters of an action, oldest first, locked. The cursor passes each letter once, also one that another
    action has changed."""
    query = _selected(action).with_only_columns(_letters.c.id, _letters.c.number).order_by(_letters.c.id).limit(limit)
    rows = (await session.execute(query.where(_letters.c.id > (action.cursor or UUID(int=0))))).all()
    numbers = {row.id: row.number for row in rows}
    action.cursor = rows[-1].id if rows else action.cursor
    action.is_exhausted = len(rows) < limit
    # Between the two queries another action may have changed the letters.
    found, states = await load(session, Letter, numbers, lock=True), _states(action)
    return [letter for letter in found if letter.state in states and letter.number == numbers[letter.id]]


def _selected(action: Action) -> Any:
    selection = _selection(action)
    wanted = selection.filter or LetterFilter()
    query: Any = select(Letter).where(_letters.c.id.in_(selection.ids)) if selection.ids else select_letters(wanted)
    query = query.where(_letters.c.id <= action.until_id, _letters.c.state.in_(_states(action)))
    if action.kind == "replay":
        query = query.where(_letters.c.lane.in_(LANES))  # a letter of a removed lane cannot be sent
    # A letter that a running replay has sent belongs to that replay: the replay counts its outcome.
    ended = select(_actions.c.id).where(_actions.c.ended_at.is_not(None))
    return query.where(or_(_letters.c.state != "SENT", _letters.c.action_id.in_(ended)))


def _states(action: Action) -> Collection[str]:
    if action.kind != "replay":
        return ("WAITING", "SENT", *FINISHED)
    wanted = _selection(action).filter
    return ("SENT",) if wanted and wanted.state == "SENT" else ("WAITING",)


def _selection(action: Action) -> Selection:
    return Selection.model_validate(action.wish["selection"])
