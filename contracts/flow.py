"""READ FIRST: which message goes to which lanes. The broker's topology and its permissions are derived from this page.

A lane is a queue and its consumer, named after its service (`orders`), with a suffix where a service has a second one
(`email.outgoing`). A message that no lane consumes is published all the same: other teams may bind to it.
"""

from contracts.base import Command, Message
from contracts.deadletters import (
    CancelReplay,
    EditLetter,
    LetterEdited,
    LetterEditRefused,
    LettersPurged,
    LettersReplayed,
    PurgeLetters,
    ReplayCancelled,
    ReplayCancelRefused,
    ReplayFailed,
    ReplayLetters,
)
from contracts.email import DeliverMail, MailDigest, MailReport, MailResendRefused, MailsResent, ResendMails
from contracts.jobs import JobFailed, JobProgressed, JobRetrying, LetterSettled
from contracts.orders import (
    CancelOrder,
    OrderCancelled,
    OrderCancelRefused,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    PlaceOrder,
)
from contracts.reports import (
    AssembleReport,
    CancelReport,
    CreateReport,
    ExportChunk,
    ExportStopped,
    FetchPage,
    ProjectPage,
    ReadModelRebuilt,
    RebuildReadModel,
    RemoveReportFiles,
    ReportAssembled,
    ReportCancelled,
    ReportCancelRefused,
    ReportFailed,
    ReportReady,
)
from contracts.stock import (
    ProductPriced,
    StockAdjusted,
    StockLow,
    StockRejected,
    StockReleased,
    StockReserved,
    StockTaken,
)

# fmt: off
FLOW: dict[type[Message], tuple[str, ...]] = {
    # a customer wishes
    PlaceOrder:          ("orders",),
    CancelOrder:         ("orders",),
    # an order lives
    OrderPlaced:         ("stock", "email", "reports"),
    OrderConfirmed:      ("stock", "email", "reports", "gateway"),
    OrderRejected:       ("stock", "email", "reports", "gateway"),
    OrderCancelled:      ("stock", "email", "reports", "gateway"),
    OrderCancelRefused:  ("gateway",),
    # stock answers
    StockReserved:       ("orders", "reports"),
    StockRejected:       ("orders",),
    StockTaken:          ("reports",),
    StockReleased:       ("reports",),
    StockAdjusted:       ("reports",),
    StockLow:            ("email",),
    ProductPriced:       ("orders",),
    # mail leaves
    DeliverMail:         ("email.outgoing",),
    ResendMails:         ("email",),
    MailsResent:         ("gateway",),
    MailResendRefused:   ("gateway",),
    # a report is made: chunk by chunk, then assembled
    CreateReport:        ("reports",),
    ExportChunk:         ("reports.export",),
    AssembleReport:      ("reports.assembly",),
    ReportAssembled:     ("reports",),
    ExportStopped:       ("reports",),
    CancelReport:        ("reports",),
    RemoveReportFiles:   ("reports.export",),
    # and its end is told
    ReportReady:         ("gateway",),
    ReportFailed:        ("gateway",),
    ReportCancelled:     ("gateway",),
    ReportCancelRefused: ("gateway",),
    MailReport:          ("email",),
    # the reports' read model is filled again
    RebuildReadModel:    ("reports",),
    FetchPage:           ("reports.rebuild",),
    ProjectPage:         ("reports",),
    ReadModelRebuilt:    ("gateway",),
    # dead letters are sent again, edited, removed
    ReplayLetters:       ("deadletters",),
    CancelReplay:        ("deadletters",),
    EditLetter:          ("deadletters",),
    PurgeLetters:        ("deadletters",),
    LetterSettled:       ("deadletters",),
    LettersReplayed:     ("gateway",),
    ReplayFailed:        ("gateway",),
    ReplayCancelled:     ("gateway",),
    ReplayCancelRefused: ("gateway",),
    LetterEdited:        ("gateway",),
    LetterEditRefused:   ("gateway",),
    LettersPurged:       ("gateway",),
    # and operators are told of them
    MailDigest:          ("email",),
    # the kernel speaks of jobs, in whichever service it runs
    JobRetrying:         ("gateway",),
    JobFailed:           ("gateway", "reports"),
    JobProgressed:       ("gateway",),
}

SENDERS: dict[type[Command], tuple[str, ...]] = {
    PlaceOrder:        ("gateway", "shop"),
    CancelOrder:       ("gateway",),
    DeliverMail:       ("email",),
    ResendMails:       ("gateway", "email"),
    MailReport:        ("reports",),
    MailDigest:        ("deadletters",),
    CreateReport:      ("gateway",),
    CancelReport:      ("gateway",),
    ExportChunk:       ("reports",),
    AssembleReport:    ("reports",),
    RemoveReportFiles: ("reports",),
    RebuildReadModel:  ("gateway",),
    FetchPage:         ("reports",),
    ProjectPage:       ("reports",),
    ReplayLetters:     ("gateway",),
    CancelReplay:      ("gateway",),
    EditLetter:        ("gateway",),
    PurgeLetters:      ("gateway",),
}
# fmt: on

SHOP = "shop"
"""The broker user of a shop's own system: it may send what `SENDERS` says, and nothing else."""

MONITOR = "monitor"
"""The broker user of an autoscaler or a dashboard: it sees every queue in the management API, and may touch none."""

COLLECTOR = "deadletters"
"""The service that reads the dead letters of every lane, and may send each back to its own."""


def service_of(lane: str) -> str:
    """`email.outgoing` belongs to `email`."""
    return lane.partition(".")[0]


LANES: tuple[str, ...] = tuple(sorted({lane for lanes in FLOW.values() for lane in lanes}))
SERVICES: tuple[str, ...] = tuple(sorted({service_of(lane) for lane in LANES}))
BY_KEY: dict[str, type[Message]] = {message.key: message for message in FLOW}
