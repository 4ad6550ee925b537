"""This process: its id, its CPU time and its memory."""

import os
import resource
import socket
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

HOST = socket.gethostname()
STARTED_AT: datetime
ID: str


def _boot() -> str:
    """The id of this start of the machine, because process ids repeat after a restart."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
    except OSError:
        return f"{int(time.time() - time.monotonic()):x}"


def _begin() -> None:
    """A process that is forked from another is another."""
    global ID, STARTED_AT
    STARTED_AT = datetime.now(UTC)
    ID = f"{HOST}-{_boot()}-{os.getpid()}-{STARTED_AT.timestamp():.0f}"


_begin()
os.register_at_fork(after_in_child=_begin)


def cpu_seconds() -> float:
    """User and system time since the process started."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory_bytes() -> int:
    """Resident memory in bytes; its highest value so far, if the system does not give the present one."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
