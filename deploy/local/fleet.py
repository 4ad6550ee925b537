"""Is there a fleet on this machine, and how is it cleaned up after? (The supervisor itself takes long to load.)"""

import contextlib
import fcntl
import os
from typing import IO, TYPE_CHECKING, Any

from deploy.local import processes

if TYPE_CHECKING:
    from deploy.local.environment import Environment

_LOOKS = 1.0
"""Seconds: `running` holds the lock for a moment, and whoever holds it says so a moment later."""

GRACE = 20.0
"""Seconds that a process has to end after SIGTERM."""


def hold_lock(here: "Environment") -> IO[str] | None:
    """The lock that a supervisor holds while it lives, so a pid that was given to somebody else fools nobody.

    None when another one holds it. Closing the file, or dying, gives it back."""
    here.run.mkdir(parents=True, exist_ok=True)
    lock = (here.run / "lock").open("a+")
    if not processes.until(lambda: _locked(lock, fcntl.LOCK_EX), _LOOKS):
        lock.close()
        return None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def running(here: "Environment") -> int:
    """The living supervisor's pid, 0 when there is none. Raises `Unusable` where nobody can tell."""
    path = here.run / "lock"
    with here.using_data():
        if not path.exists():
            return 0
        with path.open() as lock:
            if _locked(lock, fcntl.LOCK_SH):
                return 0
    processes.until(lambda: processes.read_pid(path) > 0, _LOOKS)
    return processes.read_pid(path)


def _locked(lock: IO[str], how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def end_orphans(here: "Environment") -> None:
    """End what a killed supervisor left running, and nothing that merely got one of its pids since."""
    from deploy.local.environment import Damaged

    state: dict[str, Any] = {}
    with contextlib.suppress(Damaged):  # whoever holds a port of ours all the same is named when we start again
        state = here.state()
    for entry in [*state.get("services", []), *filter(None, [state.get("mail"), state.get("watch")])]:
        processes.end(entry["pid"], float(entry.get("born", 0)), GRACE)
    if here.has_own_broker:
        here.node("").end_left_overs()
    here.state_file.unlink(missing_ok=True)
