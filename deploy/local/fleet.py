"""Finds the fleet of this machine, and cleans up after it. (In a module without the supervisor, which is slow to
import.)"""

import contextlib
import fcntl
import os
from typing import IO, TYPE_CHECKING, Any

from deploy.local import processes

if TYPE_CHECKING:
    from deploy.local.environment import Environment

_LOOKS = 1.0
"""Seconds to wait for a holder's pid: `running` holds the lock for a moment, and a supervisor writes its pid a moment
after it has the lock."""

GRACE = 20.0
"""Seconds that a process has to end after SIGTERM."""


def hold_lock(here: "Environment") -> IO[str] | None:
    """The lock that a supervisor holds while it lives, so that a reused pid is not taken for a supervisor.

    None if another process holds it. Closing the file, or the end of the process, releases it."""
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
    """The pid of the living supervisor; 0 if there is none. Raises `Unusable` if that cannot be known."""
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
    """End the processes that a killed supervisor left, and no process that has merely reused a pid."""
    from deploy.local.environment import Damaged

    state: dict[str, Any] = {}
    with contextlib.suppress(Damaged):  # a process that still holds a port is named at the next start
        state = here.state()
    for entry in [*state.get("services", []), *filter(None, [state.get("mail"), state.get("watch")])]:
        processes.end(entry["pid"], float(entry.get("born", 0)), GRACE)
    if here.has_own_broker:
        here.node("").end_left_overs()
    here.state_file.unlink(missing_ok=True)
