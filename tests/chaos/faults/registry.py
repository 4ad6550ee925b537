"""The list of faults, and what a fault is."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.chaos.world import World

Script = Callable[[World], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """A script; what it strikes (two that strike the same are not done at once); on which database it can be done."""

    script: Script
    strikes: str
    only_on: str | None = None

    @property
    def name(self) -> str:
        return self.script.__name__


FAULTS: list[Fault] = []


def fault(strikes: str, only_on: str | None = None) -> Callable[[Script], Script]:
    """Add a script to the list."""

    def register(script: Script) -> Script:
        FAULTS.append(Fault(script, strikes, only_on))
        return script

    return register


def told(world: World, name: str) -> str:
    """Write down who is hit."""
    world.say(f"  {name}")
    return name
