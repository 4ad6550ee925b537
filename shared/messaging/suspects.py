"""Messages that come again may have killed the process that had them: who is tried together, and who is found guilty.

An attempt is written down before it is made. A message's first attempt is made together with all others, the next one,
once a process has died meanwhile, among a few, and all after that alone. So the killer is found by attempts of its own,
its neighbours are not blamed for having been near it, and what comes again for another reason, such as a freeze, costs
little more than what is new.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import TypeVar

from shared.messaging.handler import Poison

T = TypeVar("T")

FEW = 8
LONE_ATTEMPTS = 3
"""A message whose process died the last so many times that it was tried alone goes to the dead letters."""


def together(tries: int, at_once: int) -> int:
    """How many messages may be tried at a time, this many tries included without an outcome."""
    return at_once if tries <= 1 else min(FEW, at_once) if tries == 2 else 1


def is_killer(tries: int) -> bool:
    """Whether a message is not to be tried once more: this would be its `tries`th try, the first two not alone."""
    return tries > 2 + LONE_ATTEMPTS


def killer() -> Poison:
    """What is said of it."""
    return Poison(f"its process died the last {LONE_ATTEMPTS} times that it was tried")


def groups(those: Iterable[T], tries: Callable[[T], int], at_once: int) -> Iterable[list[T]]:
    """Who is tried together, the least suspected first: what a killer might kill with itself is done before."""
    for number, some in itertools.groupby(sorted(those, key=tries), tries):
        size, waiting = together(number, at_once), list(some)
        yield from (waiting[start : start + size] for start in range(0, len(waiting), size))
