"""A finding: a checked part, its severity, and its meaning."""

from dataclasses import dataclass
from typing import Literal

from contracts.base import Locale
from deploy.local.advice import advice

WARNINGS = frozenset(
    {"service_warning", "dead_letters", "unreadable_letters", "broker_tracing", "broker_unmanaged", "old_queues"}
)
"""Kinds of findings with which everything still works."""
CRITICAL = frozenset(
    {
        *("disk_full", "data_folder", "damaged_secrets", "database", "database_read_only"),
        *("broker_stopped", "broker_down", "broker_memory", "broker_disk", "broker_files"),
        *("service_stopped", "service_down"),
    }
)
"""Kinds of findings with which orders are not processed or requests are refused."""
CONSEQUENCES = frozenset({"service_waits", "needs_disk"})
"""Kinds of findings that end once another finding, their cause, ends."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check. `detail` is what was found; `kind` names its advice, empty for none."""

    what: str
    detail: str
    kind: str = ""
    lacking: frozenset[str] = frozenset()
    """Queues that are missing, or that a binding is missing to."""

    @property
    def level(self) -> Literal["ok", "warning", "problem", "critical"]:
        if not self.kind:
            return "ok"
        if self.kind in CRITICAL:
            return "critical"
        return "warning" if self.kind in WARNINGS else "problem"

    @property
    def is_trouble(self) -> bool:
        """Whether something does not work."""
        return self.level in ("problem", "critical")

    def said(self, locale: Locale = "en") -> str:
        """Meaning, detail and advice in one text."""
        if not self.kind:
            return self.detail
        means, following = advice(self.kind, self.what, locale)
        return f"{means}: {self.detail.rstrip('.')}. {following}" if self.detail else f"{means}. {following}"
