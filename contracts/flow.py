"""READ FIRST: who may send each message, and which lanes consume it. The broker's topology and its permissions are
derived from this page.

A lane is a queue and its consumer, named after its service (`orders`), with a suffix where a service has a second one
(`email.outgoing`). A message that no lane consumes is published all the same: other teams may bind to it.
"""

from collections.abc import Mapping
from typing import NamedTuple

from contracts import deadletters, email, jobs, orders, processes, reports, stock
from contracts.base import Message

SHOP = "shop"
"""The broker user of a shop's own system: it may send what its rows say, and nothing else."""

MONITOR = "monitor"
"""The broker user of an autoscaler or a dashboard: it sees every queue in the management API, and may touch none."""

COLLECTOR = "deadletters"
"""The service that reads the dead letters of every lane, and may send each back to its own."""


class Route(NamedTuple):
    """Who may send a message, and the lanes that consume it."""

    senders: tuple[str, ...]
    lanes: tuple[str, ...]


NOWHERE = Route((), ())
"""The route of a message without a row."""


def service_of(lane: str) -> str:
    """`email.outgoing` belongs to `email`."""
    return lane.partition(".")[0]


def read(rows: dict[type[Message], str]) -> dict[type[Message], Route]:
    """Rows such as `"gateway shop -> orders"`; the sender `any` stands for every service. Raises ValueError."""
    flow = {}
    for message, row in rows.items():
        senders, arrow, lanes = row.partition("->")
        if not arrow or not senders.split():
            raise ValueError(f"contracts/flow.py: {message.__name__}: write 'sender … -> lane …', not {row!r}")
        flow[message] = Route(tuple(senders.split()), tuple(lanes.split()))
    every = services_in(flow)
    return {m: Route(every, r.lanes) if r.senders == ("any",) else r for m, r in flow.items()}


def services_in(flow: Mapping[type[Message], Route]) -> tuple[str, ...]:
    """The services that send or consume a message of a flow."""
    named = {service_of(name) for route in flow.values() for name in (*route.senders, *route.lanes)}
    return tuple(sorted(named - {SHOP, "any"}))


# fmt: off
FLOW = read({
    # message                        who may send it -> the lanes that consume it
    # customers order and cancel
    orders.PlaceOrder:               "gateway shop -> orders",
    orders.CancelOrder:              "gateway -> orders",
    # the life of an order
    orders.OrderPlaced:              "orders -> stock email reports",
    orders.OrderConfirmed:           "orders -> stock email reports gateway",
    orders.OrderRejected:            "orders -> stock email reports gateway",
    orders.OrderCancelled:           "orders -> stock email reports gateway",
    orders.OrderCancelRefused:       "orders -> gateway",
    # stock answers
    stock.StockReserved:             "stock -> orders reports",
    stock.StockRejected:             "stock -> orders",
    stock.StockTaken:                "stock -> reports",
    stock.StockReleased:             "stock -> reports",
    stock.StockAdjusted:             "stock -> reports",
    stock.StockLow:                  "stock -> email",
    stock.ProductPriced:             "stock -> orders",
    # mails are sent
    email.DeliverMail:               "email -> email.outgoing",
    email.ResendMails:               "gateway email -> email",
    email.MailsResent:               "email -> gateway",
    email.MailResendRefused:         "email -> gateway",
    # a report is made: chunk by chunk, then assembled
    reports.CreateReport:            "gateway -> reports",
    reports.ExportChunk:             "reports -> reports.export",
    reports.AssembleReport:          "reports -> reports.assembly",
    reports.ReportAssembled:         "reports -> reports",
    reports.ExportStopped:           "reports -> reports",
    reports.CancelReport:            "gateway -> reports",
    reports.RemoveReportFiles:       "reports -> reports.export",
    # and its end is reported
    reports.ReportReady:             "reports -> gateway",
    reports.ReportFailed:            "reports -> gateway",
    reports.ReportCancelled:         "reports -> gateway",
    reports.ReportCancelRefused:     "reports -> gateway",
    email.MailReport:                "reports -> email",
    # the reports' read model is filled again
    reports.RebuildReadModel:        "gateway -> reports",
    reports.FetchPage:               "reports -> reports.rebuild",
    reports.ProjectPage:             "reports -> reports",
    reports.ReadModelRebuilt:        "reports -> gateway",
    # dead letters are sent again, edited, removed
    deadletters.ReplayLetters:       "gateway -> deadletters",
    deadletters.CancelReplay:        "gateway -> deadletters",
    deadletters.EditLetter:          "gateway -> deadletters",
    deadletters.PurgeLetters:        "gateway -> deadletters",
    jobs.LetterSettled:              "any -> deadletters",
    deadletters.LettersReplayed:     "deadletters -> gateway",
    deadletters.ReplayFailed:        "deadletters -> gateway",
    deadletters.ReplayCancelled:     "deadletters -> gateway",
    deadletters.ReplayCancelRefused: "deadletters -> gateway",
    deadletters.LetterEdited:        "deadletters -> gateway",
    deadletters.LetterEditRefused:   "deadletters -> gateway",
    deadletters.LettersPurged:       "deadletters -> gateway",
    # and operators are notified of them
    email.MailDigest:                "deadletters -> email",
    # the kernel reports on jobs, in every service
    jobs.JobRetrying:                "any -> gateway",
    jobs.JobFailed:                  "any -> gateway reports",
    jobs.JobProgressed:              "any -> gateway",
    # and on its processes
    processes.ProcessSeen:           "any ->",
})
# fmt: on

LANES: tuple[str, ...] = tuple(sorted({lane for route in FLOW.values() for lane in route.lanes}))
SERVICES: tuple[str, ...] = services_in(FLOW)
BY_KEY: dict[str, type[Message]] = {message.key: message for message in FLOW}
