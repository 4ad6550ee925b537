"""How an export fails, in words that the person who asked for the report may read."""

import contextlib
import errno
from collections.abc import Iterator

import structlog

from services.reports.adapters.storage import NotStored
from services.reports.settings import ReportsSettings
from shared.persistence.database import Outage

log = structlog.get_logger(__name__)


class Incomplete(Exception):
    """A file does not have the content that was counted for it; a later try may succeed."""


class Stopped(Exception):
    """An export reached a limit. `reason` is for programs, the text is for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def storage_limit_reached(settings: ReportsSettings) -> Stopped:
    """The reports of one owner would take more bytes than they may."""
    return Stopped(
        "storage_limit", f"Your reports may take {settings.storage_limit_mb} MB in all; delete one, or wait."
    )


@contextlib.contextmanager
def for_customers(action: str) -> Iterator[None]:
    """Hide the text of an unforeseen error from customers: they read that the operator finds it in the log."""
    try:
        yield
    except (NotStored, Incomplete, Stopped, Outage):
        raise
    except Exception as error:
        is_full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        why = "no space is left" if is_full else "the service's operator finds the reason in its log"
        log.warning("export: failed", doing=action, exc_info=error)
        raise Incomplete(f"{action} failed: {why}") from error
