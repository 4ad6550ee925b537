"""The names of exchanges and queues, and the bindings of lanes, derived from `contracts.flow`.

No queue has the name of an exchange. RabbitMQ's permissions are by name only: a user that may read the exchange
`orders` to bind a queue to it could also consume from a queue `orders`.
"""

from collections.abc import Iterable
from functools import cache

from contracts.base import Command, Message
from contracts.flow import FLOW, MONITOR, SERVICES, SHOP

COMMANDS = "commands"
CONTROL = "control"
"""The exchange of `contracts.processes.Control`; the routing key is `all`, a service's name or a process's id."""
DEAD_LETTERS = "dead-letters"
"""The exchange of dead letters; the routing key is the lane that dead-lettered them."""
RETURNS = "lanes"
"""The exchange by which a message returns to its lane after the wait for its next attempt. Nobody may publish to it."""


def queue_of(lane: str) -> str:
    """The queue of a lane."""
    return f"lane.{lane}"


def dead_letters_of(lane: str) -> str:
    """The queue of a lane's dead letters."""
    return queue_of(f"{lane}.dlq")


def control_queue(service: str, process: str) -> str:
    """The queue of control messages for one process. It is deleted with its connection."""
    return f"control.{service}.{process}"


def retry_exchange(step: str) -> str:
    """The exchange of messages that are tried again after a wait, such as `5s`; the routing key is the lane."""
    return f"retry.{step}"


def waiting_queue(step: str) -> str:
    """The queue in which messages of all lanes wait for that time."""
    return f"wait.{step}"


def gate_of(exchange: str) -> str:
    """The exchange to which a service publishes its events. It is bound to the owner's exchange only while all queues
    behind that are bound; until then the broker returns each message as unroutable."""
    return f"gate.{exchange}"


@cache
def gated() -> frozenset[str]:
    """The exchanges with a gate: those of events. A command has one consumer, and is returned if that is not bound."""
    return frozenset(message.exchange for message in FLOW if not issubclass(message, Command))


@cache
def routes_to(lane: str) -> frozenset[tuple[str, str]]:
    """The (exchange, routing key) pairs by which a message may reach a lane."""
    own = [message for message, route in FLOW.items() if lane in route.lanes]
    return frozenset([(RETURNS, lane), ("", queue_of(lane)), *_entries(own)])


def is_from(user: str | None, service: str) -> bool:
    """Whether a broker user (`Envelope.user`) may send as a service: the service itself or an administrator, but no
    other service."""
    return user in (None, service) or user not in ("", SHOP, MONITOR, *SERVICES)


def _entries(messages: Iterable[type[Message]]) -> Iterable[tuple[str, str]]:
    for message in messages:
        yield message.exchange, message.key
        if message.exchange in gated():
            yield gate_of(message.exchange), message.key
