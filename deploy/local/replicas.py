"""The wanted number of processes of each service on this machine, and their names."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from deploy.local.files import alone, write_private

if TYPE_CHECKING:
    from deploy.local.environment import Environment

MOST = 32
"""Processes of one service on one machine."""
_FURTHER = re.compile(r"(.+)-([1-9][0-9]*)")
Counts = Mapping[str, int]
"""The number of processes by service. A service that is not named has one."""


def name_of(service: str, number: int) -> str:
    """The name of a process and of its log: `stock`, `stock-1`, `stock-2`."""
    return f"{service}-{number}" if number else service


def split(name: str) -> tuple[str, int]:
    """`stock-1` -> `("stock", 1)`; `stock` -> `("stock", 0)`."""
    found = _FURTHER.fullmatch(name)
    return (found[1], int(found[2])) if found else (name, 0)


def names(services: Iterable[str], counts: Counts) -> list[str]:
    """The names of all wanted processes."""
    return [name_of(service, number) for service in services for number in range(counts.get(service, 1))]


def read(given: Iterable[str], services: Collection[str]) -> dict[str, int]:
    """`["stock=2"]` -> `{"stock": 2}`. Raises ValueError, with what is wrong."""
    found: dict[str, int] = {}
    for one in given:
        service, _, number = one.partition("=")
        if service not in services:
            raise ValueError(f"{one!r}: there is no service {service!r}: {', '.join(services)} are there")
        if not (number.isascii() and number.isdecimal()) or not 1 <= int(number) <= MOST:
            raise ValueError(f"{one!r}: write SERVICE=NUMBER, with a number from 1 to {MOST}, such as {service}=2")
        if service in found:
            raise ValueError(f"{service} is given twice")
        found[service] = int(number)
    return found


def wanted(here: "Environment") -> dict[str, int]:
    """What was asked for last. Raises `Unusable`, also where a file is there that says something else."""
    from deploy.local.environment import Damaged, kept

    with here.using_data():
        counts = kept(here.replicas_file)
    if not all(type(number) is int and 1 <= number <= MOST for number in counts.values()):
        raise Damaged(here.replicas_file, "it is JSON of another shape")
    return counts


def begin(here: "Environment", counts: Counts) -> None:
    """Set the numbers of a new fleet. Raises `Unusable`."""
    with here.using_data():
        write_private(here.replicas_file, json.dumps(counts))


def change(here: "Environment", counts: Counts) -> None:
    """Change the numbers of these services; the others stay. Raises `Unusable`."""
    with here.using_data(), alone(here.run / "replicas.lock"):
        begin(here, wanted(here) | dict(counts))
