"""The unit of work that a handler is given: the rows of its batch, and what it wants to say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any, TypeVar, cast

from faststream import Context
from sqlalchemy import inspect
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.attributes import flag_modified
from sqlmodel import SQLModel

from contracts.base import Envelope, Message
from shared.messaging.publisher import Outgoing, outgoing

Row = TypeVar("Row", bound=SQLModel)
Demand = Callable[[], Awaitable[None]]


class UnitOfWork:
    """One transaction, shared by all messages of a batch. Nothing in it is committed or published by hand."""

    def __init__(self, session: AsyncSession, service: str, traceparent: str | None = None) -> None:
        self.session = session
        self.cause: Envelope | None = None
        """The envelope of the message in hand; None in a request over HTTP."""
        self.outgoing: list[Outgoing] = []
        self._service, self._traceparent = service, traceparent
        self._rows: dict[tuple[type[SQLModel], Any], SQLModel] = {}
        self._used: dict[tuple[type[SQLModel], Any], SQLModel] | None = (
            None  # of work apart: the rows that it asked for
        )
        self._changes: list[tuple[SQLModel, dict[str, Any]]] | None = None
        self.demand_ours: Demand = _nobody_else
        """In work apart, right before what cannot be undone: raises if another process has taken the message over."""

    @property
    def job_id(self) -> str:
        """The job that the message in hand belongs to."""
        assert self.cause, "a request over HTTP belongs to no job: it starts one"
        return self.cause.correlation_id

    def know(self, rows: Iterable[SQLModel]) -> None:
        """Keep loaded rows at hand for `get`."""
        for row in rows:
            self._rows[type(row), inspect(row).identity[0]] = row

    def get(self, table: type[Row], key: Any) -> Row | None:
        """A row that was loaded for this batch or added in it, by its primary key. Asks no database."""
        row = self._rows.get((table, key))
        if row is not None and self._used is not None:
            self._used[table, key] = row
        return row  # type: ignore[return-value]

    def all(self, table: type[Row]) -> list[Row]:
        """The rows of a table that were loaded for this batch or added in it."""
        return [row for (of, _), row in self._rows.items() if of is table]  # type: ignore[misc]

    def add(self, row: SQLModel) -> None:
        """Insert a row when the batch is flushed."""
        key = inspect(type(row)).primary_key[0].name
        self._rows[type(row), getattr(row, key)] = row
        self.session.add(row)

    def apart(self, cause: Envelope, demand_ours: Demand) -> UnitOfWork:
        """The same rows for work outside any transaction. What it changes in them is saved by `take_up`."""
        own = UnitOfWork(cast(AsyncSession, None), self._service)
        own.cause, own._rows, own._used = cause, self._rows, {}
        own.demand_ours = demand_ours
        return own

    def take_up(self, work: UnitOfWork) -> None:
        """Save in this transaction what was changed in work done apart from it; again if this one fails."""
        if work._changes is None:  # a row that was flushed once, even in vain, no longer knows what was changed in it
            work._changes = [(row, _changes_of(row)) for row in (work._used or {}).values()]
        for row, changes in work._changes:
            self.session.add(row)
            for name, value in changes.items():
                setattr(row, name, value)
                flag_modified(row, name)
        self.outgoing += work.outgoing
        self.cause = work.cause

    def send(self, *messages: Message) -> Envelope:
        """Publish messages once this transaction is committed; return the last one's envelope."""
        for message in messages:
            self.outgoing.append(outgoing(message, self._service, self.cause, self._traceparent))
        return self.outgoing[-1].envelope


async def _nobody_else() -> None:
    """What a transaction has locked, nobody takes over."""


def _changes_of(row: SQLModel) -> dict[str, Any]:
    return {name: getattr(row, name) for name in inspect(row).committed_state}


Unit = Annotated[UnitOfWork, Context("unit")]
"""How a handler names its unit of work; the annotation keeps it out of the message's documented payload."""
