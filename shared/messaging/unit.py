"""The unit of work that a handler is given: the rows of its batch, and the messages that it sends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import inspect
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.attributes import flag_modified
from sqlmodel import SQLModel

from contracts.base import Envelope, Message
from shared.messaging import scheduled
from shared.messaging.publisher import Outgoing, outgoing
from shared.messaging.scheduled import Scheduled, due_at

Row = TypeVar("Row", bound=SQLModel)
Demand = Callable[[], Awaitable[None]]
Rows = dict[tuple[type[SQLModel], Any], SQLModel]


class Work:
    """What every handler is given: the rows that were loaded for it, and the way to send messages."""

    def __init__(self, service: str, traceparent: str | None = None) -> None:
        self.cause: Envelope | None = None
        """The envelope of the message in hand; None in a request over HTTP."""
        self.outgoing: list[Outgoing] = []
        self.scheduled: list[Scheduled] = []
        self._service, self._traceparent = service, traceparent
        self._rows: Rows = {}

    @property
    def job_id(self) -> str:
        """The job that the message in hand belongs to."""
        assert self.cause, "a request over HTTP belongs to no job: it starts one"
        return self.cause.correlation_id

    def get(self, table: type[Row], key: Any) -> Row | None:
        """A row that was loaded for this batch or added in it, by its primary key. Asks no database."""
        return self._rows.get((table, key))  # type: ignore[return-value]

    def all(self, table: type[Row]) -> list[Row]:
        """The rows of a table that were loaded for this batch or added in it."""
        return [row for (of, _), row in self._rows.items() if of is table]  # type: ignore[misc]

    def send(self, *messages: Message, at: datetime | None = None, name: str | None = None) -> Envelope:
        """Publish messages once this transaction is committed; return the last one's envelope.

        With `at`, which has a zone, each message is published at that time, or at once if the time is past. A `name`
        of at most 255 characters is for one such message: `UnitOfWork.withdraw` can take the message back until then,
        and the message replaces the one that waits under the same name in this service. Raises ValueError.
        """
        if name is not None and not 0 < len(name) <= scheduled.NAME_LENGTH:
            raise ValueError(f"a name has 1 to {scheduled.NAME_LENGTH} characters, not {len(name)}")
        if name is not None and (at is None or len(messages) > 1):
            raise ValueError(f"{name!r} names one message for later: send one message, with `at`")
        for message in messages:
            sent = outgoing(message, self._service, self.cause, self._traceparent)
            if at is None:
                self.outgoing.append(sent)
            else:
                self.scheduled.append(Scheduled(sent, due_at(at), name))
        return sent.envelope


class OutsideWork(Work):
    """Work outside any transaction, with rows of one that is committed. What it changes in those that it asked for is
    saved by the transaction that records its outcome."""

    def __init__(self, service: str, rows: Rows, cause: Envelope, demand_ours: Demand) -> None:
        super().__init__(service)
        self.cause, self._rows = cause, rows
        self.demand_ours = demand_ours
        """To be called right before what cannot be undone: raises if another process has taken the message over."""
        self._asked: list[SQLModel] = []
        self._changes: list[tuple[SQLModel, dict[str, Any]]] | None = None

    def get(self, table: type[Row], key: Any) -> Row | None:
        row = super().get(table, key)
        if row is not None:
            self._asked.append(row)
        return row

    def changes(self) -> list[tuple[SQLModel, dict[str, Any]]]:
        """What it changed in its rows: found once, for a row that was flushed, even in vain, no longer knows."""
        if self._changes is None:
            self._changes = [(row, _changes_of(row)) for row in self._asked]
        return self._changes


class UnitOfWork(Work):
    """One transaction, shared by all messages of a batch. Nothing in it is committed or published by hand."""

    def __init__(self, session: AsyncSession, service: str, traceparent: str | None = None) -> None:
        super().__init__(service, traceparent)
        self.session = session

    def know(self, rows: Iterable[SQLModel]) -> None:
        """Keep loaded rows at hand for `get`."""
        for row in rows:
            self._rows[type(row), inspect(row).identity[0]] = row

    def add(self, row: SQLModel) -> None:
        """Insert a row when the batch is flushed."""
        key = inspect(type(row)).primary_key[0].name
        self._rows[type(row), getattr(row, key)] = row
        self.session.add(row)

    async def withdraw(self, name: str) -> bool:
        """Take back what waits to be sent under a name. True if it will never be sent; False if it was sent before or
        nothing waits under the name. Final once this transaction is committed."""
        kept = [one for one in self.scheduled if one.name != name]
        was_here, self.scheduled = len(kept) < len(self.scheduled), kept
        return await scheduled.withdraw(self.session, name) or was_here

    def outside(self, cause: Envelope, demand_ours: Demand) -> OutsideWork:
        """Work on one of the batch's messages, with the same rows, once this transaction is committed."""
        return OutsideWork(self._service, self._rows, cause, demand_ours)

    def take_up(self, work: OutsideWork) -> None:
        """Save in this transaction what was changed in work outside it; again if this one fails."""
        for row, changes in work.changes():
            self.session.add(row)
            for name, value in changes.items():
                setattr(row, name, value)
                flag_modified(row, name)
        self.outgoing += work.outgoing
        self.scheduled += work.scheduled
        self.cause = work.cause


def _changes_of(row: SQLModel) -> dict[str, Any]:
    return {name: getattr(row, name) for name in inspect(row).committed_state}
