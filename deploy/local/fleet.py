"""Is there a fleet on this machine, and how is it cleaned up after? (The supervisor itself takes long to load.)"""

import fcntl
import os
from typing import IO

from deploy.local import processes
from deploy.local.environment import Environment

GRACE = 20.0
"""Seconds that a process has to end after SIGTERM."""


def hold_lock(here: Environment) -> IO[str] | None:
    """The lock that a supervisor holds while it lives, so a pid that was given to somebody else fools nobody.

    None when another one holds it. Closing the file, or dying, gives it back."""
    here.run.mkdir(parents=True, exist_ok=True)
    lock = (here.run / "lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def running(here: Environment) -> int:
    """The living supervisor's pid, 0 when there is none."""
    path = here.run / "lock"
    if not path.exists():
        return 0
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return processes.read_pid(path)
    return 0


def end_orphans(here: Environment) -> None:
    """End what a killed supervisor left running."""
    state = here.state()
    for entry in [*state.get("services", []), *filter(None, [state.get("mail")])]:
        processes.end(entry["pid"], entry["module"], GRACE)
    if node := here.broker():
        node.end_left_overs()
    here.state_file.unlink(missing_ok=True)
