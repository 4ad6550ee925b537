"""Checks the fleet periodically, and mails lasting faults to the operators. It sends mails directly, because the broker
or the email service may be the broken part. `malote up` runs it; elsewhere `malote watch` does.

The email service reports dead letters. Faults that are only consequences of a reported fault are not reported.
"""

import json
import os
import smtplib
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from deploy.local.digest import send, written
from deploy.local.environment import Environment, Unusable
from deploy.local.files import write_private
from deploy.local.finding import Finding
from deploy.local.findings import gather
from deploy.local.troubles import Memory
from services.email.settings import EmailSettings
from shared.config.settings import load

LOOK_EVERY = 15.0
"""Seconds. A mail server of somebody else's is greeted as often."""
_CANNOT_LOOK, _NO_MAIL = "cannot look", "no mail to the operators"


class Watch:
    """Looks, remembers, mails. Its log has a line when a mail goes out, and one when none can."""

    def __init__(
        self,
        here: Environment,
        settings: EmailSettings,
        look: Callable[[Environment], Sequence[Finding]] = gather,
        memory: Memory | None = None,
    ) -> None:
        self._here, self._settings, self._look = here, settings, look
        self._memory = memory or Memory()
        self._file = here.run / "watch.json"
        self._complaints: set[str] = set()
        with suppress(OSError, ValueError, KeyError, TypeError):
            self._memory.remember(json.loads(self._file.read_text()), time.monotonic())

    def once(self) -> None:
        """Check once, and send a mail if there is something to report."""
        if not self._here.is_elsewhere and self._phase() in ("starting", "stopping"):
            return
        self._memory.see(self._look(self._here), time.monotonic(), datetime.now(UTC))
        self._complaints.discard(_CANNOT_LOOK)
        if not self._settings.operators or not (digest := self._memory.digest(time.monotonic())):
            return
        try:
            send(written(digest, self._settings, time.monotonic()), self._settings)
        except (OSError, smtplib.SMTPException) as error:
            self._complain(_NO_MAIL, error)
            return
        self._complaints.discard(_NO_MAIL)
        self._memory.told(digest, time.monotonic())
        for what, troubles in (("wrong", digest.begun), ("over", digest.over)):
            for trouble in troubles:
                _say(
                    "warning" if what == "wrong" else "info",
                    f"{what}: told the operators",
                    about=f"{trouble.finding.what}: {trouble.finding.said()}",
                )
        with suppress(OSError):  # a full disk is one of the reported faults
            write_private(self._file, json.dumps(self._memory.kept()))

    def _phase(self) -> str:
        with suppress(Unusable):  # which is found, and told
            return str(self._here.state().get("phase"))
        return ""

    def forever(self) -> None:
        """Check until the process ends."""
        if not self._settings.operators:
            _say("warning", "nobody is told of what is wrong: EMAIL_OPERATORS is empty")
        while True:
            try:
                self.once()
            except Exception as error:  # after any error, the next check may succeed
                self._complain(_CANNOT_LOOK, error)
            time.sleep(LOOK_EVERY)

    def _complain(self, what: str, error: Exception) -> None:
        """Once for as long as it lasts, which may be days: no log grows by it."""
        if what not in self._complaints:
            _say("warning", what, why=str(error) or type(error).__name__)
        self._complaints.add(what)


def _say(level: str, event: str, **more: str) -> None:
    line = {"timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "level": level, "service": "watch"}
    with suppress(OSError):
        print(json.dumps(line | {"event": event} | more, ensure_ascii=False), flush=True)


def main() -> int:
    """Watch what the variables of the email service and `Environment` say, until SIGTERM."""
    here = Environment()
    os.environ |= here.environment_of("email")
    Watch(here, load(EmailSettings)).forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
