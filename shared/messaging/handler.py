"""How a handler is declared, `@on(OrderPlaced, loads=levels)`, and what it may raise."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import SQLModel

from contracts.base import Message
from contracts.flow import FLOW, NOWHERE, service_of
from shared.messaging.resources import Resources
from shared.messaging.scheduled import Later

Loader = Callable[[AsyncSession, Sequence[Any]], Awaitable[Iterable[SQLModel]]]
JobLoader = Callable[[AsyncSession, Collection[str]], Awaitable[Iterable[SQLModel]]]
Replies = Message | Later | Sequence[Message | Later] | None
Handle = TypeVar("Handle", bound=Callable[..., Awaitable[Replies]])
Collect = TypeVar("Collect", bound=Callable[..., Awaitable[None]])


class Poison(Exception):
    """Raised for a message that no retry can help: it goes to the dead letters at once."""


class RetryLater(Exception):
    """Raised by a handler that meets a message before what it builds on: it is retried."""


@dataclass(frozen=True, slots=True)
class Handler:
    """What to do with a message; see `on`."""

    contract: type[Message]
    call: Callable[..., Awaitable[Replies]]
    loads: Loader | None
    concurrency: int
    loads_jobs: JobLoader | None = None

    def with_resources(self, resources: Resources) -> "Handler":
        """The same, with the resources that it names after the message and the unit of work. Raises LookupError."""
        return replace(self, call=resources.bind(self.call, skip=2))


def on(
    *contracts: type[Message], loads: Loader | None = None, loads_jobs: JobLoader | None = None, concurrency: int = 0
) -> Callable[[Handle], Handle]:
    """Declare a handler: `async def on_<message>(message, unit: UnitOfWork)` that returns the messages that follow,
    each at once or as a `Later`.

    Further parameters are the service's resources, by their types: `mailer: Mailer`; see `Service`.

    `loads(session, messages)` returns all rows that a batch of such messages will touch; the handler finds them with
    `unit.get`. Handlers that lock the same tables share one loader, which then locks for all of them in one order.
    `loads_jobs(session, ids)` does the same, given the ids of the jobs that the messages move.

    With `concurrency`, the lane runs its messages each by itself, so many at a time, for work outside the database:
    the attempt and the loaded rows are committed before the handler is called, and what it changed in them after it.
    No transaction is open meanwhile: such a handler is given `work: OutsideWork`, which has its rows and no session.

    Such a handler raises `shared.persistence.database.Outage` where there is no server to do its work at: that counts
    no attempt, and the lane tries with one message at a time until the server is back.

    Any may raise `RetryLater` (tried again later), `Poison` (dead-lettered at once); anything else is tried again.
    """

    def declare(call: Handle) -> Handle:
        found = [Handler(contract, call, loads, concurrency, loads_jobs) for contract in contracts]
        call.handlers = found  # type: ignore[attr-defined]
        return call

    return declare


def on_dead_letters(collect: Collect) -> Collect:
    """Declare what takes the dead letters of all lanes, raw: `async def …(raws, queue, unit: UnitOfWork)`, a batch
    of one queue's at a time. They are acknowledged once its transaction is committed; until then they come again."""
    collect.collects = True  # type: ignore[attr-defined]
    return collect


def collector_of(module: ModuleType) -> Callable[..., Awaitable[None]] | None:
    """What a module declared with `on_dead_letters`, if anything."""
    return next((value for value in vars(module).values() if getattr(value, "collects", False)), None)


def lanes_of(service: str, module: ModuleType) -> dict[str, dict[str, Handler]]:
    """The handlers of a module by lane and key, as `contracts.flow` sends them. Raises ValueError on a mismatch."""
    found: dict[str, dict[str, Handler]] = {}
    for handler in (h for f in vars(module).values() for h in getattr(f, "handlers", ()) if callable(f)):
        lanes = [lane for lane in FLOW.get(handler.contract, NOWHERE).lanes if service_of(lane) == service]
        if not lanes:
            raise ValueError(f"contracts/flow.py sends {handler.contract.__name__} to no lane of {service!r}")
        for lane in lanes:
            found.setdefault(lane, {})[handler.contract.key] = handler
    for lane, handlers in found.items():
        if len({handler.concurrency for handler in handlers.values()}) > 1:
            raise ValueError(f"the handlers of lane {lane!r} differ in concurrency")
    return found
