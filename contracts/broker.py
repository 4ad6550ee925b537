"""The names of what is on the broker, and what a lane is bound to: derived from `contracts.flow`.

No queue has an exchange's name: RabbitMQ's permissions go by name alone, so whoever may read the exchange `orders`, to
bind a queue to it, could also read a queue `orders`, and take its messages away.
"""

from collections.abc import Iterable
from functools import cache

from contracts.base import Command, Message
from contracts.flow import FLOW, MONITOR, SERVICES, SHOP

COMMANDS = "commands"
CONTROL = "control"
"""The exchange by which processes are told what to do: a `contracts.processes.Control` under `all`, a service's name or
a process's id."""
DEAD_LETTERS = "dead-letters"
"""The exchange of dead letters; the routing key is the lane that gave them up."""
RETURNS = "lanes"
"""The exchange by which what waited for another attempt comes back to its lane. Nobody may publish to it."""


def queue_of(lane: str) -> str:
    """The queue of a lane."""
    return f"lane.{lane}"


def dead_letters_of(lane: str) -> str:
    """The queue that a lane's dead letters come into."""
    return queue_of(f"{lane}.dlq")


def control_queue(service: str, process: str) -> str:
    """The queue of one process for what it is told. It ends with its connection."""
    return f"control.{service}.{process}"


def retry_exchange(step: str) -> str:
    """The exchange for what is to be tried again after a wait, such as `5s`; the routing key is its lane."""
    return f"retry.{step}"


def waiting_queue(step: str) -> str:
    """The queue in which all lanes' messages wait for so long."""
    return f"wait.{step}"


def gate_of(exchange: str) -> str:
    """The exchange that a service publishes its events to. It leads to the owner's exchange, and has that one binding
    only while everything behind it is bound: until then the broker refuses what is published."""
    return f"gate.{exchange}"


@cache
def gated() -> frozenset[str]:
    """The exchanges that have a gate: those of events. A command has one consumer, so it arrives there or nowhere."""
    return frozenset(message.exchange for message in FLOW if not issubclass(message, Command))


@cache
def routes_to(lane: str) -> frozenset[tuple[str, str]]:
    """The (exchange, routing key) pairs by which a message can rightly come to a lane."""
    own = [message for message, route in FLOW.items() if lane in route.lanes]
    return frozenset([(RETURNS, lane), ("", queue_of(lane)), *_entries(own)])


def is_from(user: str | None, service: str) -> bool:
    """Whether a message can be a service's own by its `Envelope.user`: an administrator may speak for any service, but
    no service for another."""
    return user in (None, service) or user not in ("", SHOP, MONITOR, *SERVICES)


def _entries(messages: Iterable[type[Message]]) -> Iterable[tuple[str, str]]:
    for message in messages:
        yield message.exchange, message.key
        if message.exchange in gated():
            yield gate_of(message.exchange), message.key
