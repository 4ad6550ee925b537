"""Parts of a service that run again and again: `@every(60)` in its module `periodic`."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, TypeVar

import structlog

from shared.messaging.resources import Resources
from shared.persistence.database import is_outage

log = structlog.get_logger(__name__)

Call = TypeVar("Call", bound=Callable[..., Awaitable[object]])


@dataclass(frozen=True, slots=True)
class Periodic:
    """A part, and how long to wait after each of its runs."""

    name: str
    call: Callable[..., Awaitable[object]]
    seconds: float

    def with_resources(self, resources: Resources) -> "Periodic":
        """This part with the resources that it names. Raises LookupError."""
        return replace(self, call=resources.bind(self.call, skip=0))


def every(seconds: float) -> Callable[[Call], Call]:
    """Declare a part of a service that runs when a process of the service starts, and again so many seconds after each
    of its runs has ended. Its parameters are the service's resources, by their types; see `Resources`.

    Every process of the service runs it, so it works on rows that it locks or claims. What it raises is logged, and
    the part runs again in its turn; an outage of the database is waited for in silence, as readiness names it.
    """

    def declare(call: Call) -> Call:
        call.periodic = Periodic(call.__name__.replace("_", " "), call, seconds)  # type: ignore[attr-defined]
        return call

    return declare


def periodic_of(module: ModuleType) -> list[Periodic]:
    """The parts that a module has declared with `every`."""
    found = (getattr(value, "periodic", None) for value in vars(module).values() if callable(value))
    return [one for one in found if isinstance(one, Periodic)]


async def again_and_again(part: Periodic) -> None:
    """Run a part for ever."""
    while True:
        await once(part.name, part.call)
        await asyncio.sleep(part.seconds)


async def once(name: str, call: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
    """Run something whose failure must not end what comes after it."""
    try:
        await call(*arguments)
    except Exception as error:
        if not is_outage(error):
            log.exception("a periodic part failed, it runs again", part=name)
