"""Remembers how long each fault lasts, and which faults were reported."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from deploy.local.finding import CONSEQUENCES, Finding

LASTING = 60.0
"""Shorter faults, such as a restart or a deployment, are not reported."""
BETWEEN_DIGESTS = 300.0
_NEVER = float("-inf")
UNTOLD = CONSEQUENCES | {"dead_letters", "unreadable_letters"}

Key = tuple[str, str]


@dataclass(slots=True)
class Trouble:
    """A finding while it lasts. `since` and `over` are by the monotonic clock; `at` is the time of its beginning."""

    finding: Finding
    since: float
    at: datetime
    is_told: bool = False
    over: float | None = None

    def lasted(self, now: float) -> float:
        """Seconds so far, or in all."""
        return (self.over or now) - self.since


@dataclass(frozen=True, slots=True)
class Digest:
    """The content of one mail: new faults since the last mail, and faults that are over."""

    begun: Sequence[Trouble]
    over: Sequence[Trouble]


class Memory:
    """The present faults. Each is reported once after it has lasted, and once when it is over."""

    def __init__(self, lasting: float = LASTING, between: float = BETWEEN_DIGESTS) -> None:
        self._lasting, self._between = lasting, between
        self._troubles: dict[Key, Trouble] = {}
        self._told_at = _NEVER
        self._urged: dict[str, float] = {}  # the last report of a critical fault of each kind

    def see(self, findings: Sequence[Finding], now: float, at: datetime) -> None:
        """Add the findings of one check."""
        wrong = {(found.what, found.kind): found for found in findings if found.kind and found.kind not in UNTOLD}
        for key, finding in wrong.items():
            trouble = self._troubles.setdefault(key, Trouble(finding, now, at))
            trouble.finding, trouble.over = finding, None
        for key in self._troubles.keys() - wrong.keys():
            trouble = self._troubles[key]
            trouble.over = trouble.over or now
            if not trouble.is_told and trouble.lasted(now) < self._lasting:
                del self._troubles[key]

    def digest(self, now: float) -> Digest | None:
        """The faults to report now; None for none. Shortly after the last mail, only critical faults of kinds that were
        not reported shortly before."""
        lasting = [trouble for trouble in self._troubles.values() if trouble.lasted(now) >= self._lasting]
        begun = [trouble for trouble in lasting if not trouble.is_told and trouble.over is None]
        over = [trouble for trouble in self._troubles.values() if trouble.over is not None]
        if not self._is_time(self._told_at, now):
            begun, over = [trouble for trouble in begun if self._is_urgent(trouble.finding, now)], []
        return Digest(begun, over) if begun or over else None

    def _is_urgent(self, finding: Finding, now: float) -> bool:
        return finding.level == "critical" and self._is_time(self._urged.get(finding.kind, _NEVER), now)

    def _is_time(self, last: float, now: float) -> bool:
        return now - last >= self._between

    def told(self, digest: Digest, now: float) -> None:
        """Note that the server has accepted the mail."""
        if self._is_time(self._told_at, now):  # otherwise repeated urgent mails would delay all others
            self._told_at = now
        for trouble in digest.begun:
            trouble.is_told = True
            self._urged[trouble.finding.kind] = now
        self._troubles = {key: trouble for key, trouble in self._troubles.items() if trouble not in digest.over}

    def kept(self) -> list[dict[str, Any]]:
        """The reported faults that are not over, for the next process."""
        return [
            {"what": trouble.finding.what, "kind": trouble.finding.kind, "at": trouble.at.isoformat()}
            for trouble in self._troubles.values()
            if trouble.is_told and trouble.over is None
        ]

    def remember(self, kept: Sequence[dict[str, Any]], now: float) -> None:
        """Take over the reported faults of an earlier process."""
        for entry in kept:
            at = datetime.fromisoformat(entry["at"])
            ago = max(self._lasting, (datetime.now(UTC) - at).total_seconds())
            finding = Finding(entry["what"], "", entry["kind"])
            self._troubles[finding.what, finding.kind] = Trouble(finding, now - ago, at, is_told=True)
