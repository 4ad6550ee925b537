"""READ FIRST: which message goes to which lanes. The broker's topology and its permissions are derived from this page.

A lane is a queue and its consumer, named after its service (`orders`), with a suffix where a service has a second one
(`email.outgoing`). A message that no lane consumes is published all the same: other teams may bind to it.
"""

from contracts.base import Command, Message
from contracts.email import DeliverMail
from contracts.jobs import JobFailed, JobProgressed, JobRetrying
from contracts.orders import (
    CancelOrder,
    OrderCancelled,
    OrderCancelRefused,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    PlaceOrder,
)
from contracts.stock import ProductPriced, StockLow, StockRejected, StockReleased, StockReserved

# fmt: off
FLOW: dict[type[Message], tuple[str, ...]] = {
    # a customer wishes
    PlaceOrder:         ("orders",),
    CancelOrder:        ("orders",),
    # an order lives
    OrderPlaced:        ("stock", "email"),
    OrderConfirmed:     ("stock", "email", "gateway"),
    OrderRejected:      ("stock", "email", "gateway"),
    OrderCancelled:     ("stock", "email", "gateway"),
    OrderCancelRefused: ("gateway",),
    # stock answers
    StockReserved:      ("orders",),
    StockRejected:      ("orders",),
    StockReleased:      (),
    StockLow:           ("email",),
    ProductPriced:      ("orders",),
    # mail leaves
    DeliverMail:        ("email.outgoing",),
    # the kernel speaks of jobs, in whichever service it runs
    JobRetrying:        ("gateway",),
    JobFailed:          ("gateway",),
    JobProgressed:      ("gateway",),
}

SENDERS: dict[type[Command], tuple[str, ...]] = {
    PlaceOrder:  ("gateway", "shop"),
    CancelOrder: ("gateway",),
    DeliverMail: ("email",),
}
# fmt: on

SHOP = "shop"
"""The broker user of a shop's own system: it may send what `SENDERS` says, and nothing else."""


def service_of(lane: str) -> str:
    """`email.outgoing` belongs to `email`."""
    return lane.partition(".")[0]


LANES: tuple[str, ...] = tuple(sorted({lane for lanes in FLOW.values() for lane in lanes}))
SERVICES: tuple[str, ...] = tuple(sorted({service_of(lane) for lane in LANES}))
BY_KEY: dict[str, type[Message]] = {message.key: message for message in FLOW}
