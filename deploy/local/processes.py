"""Processes that may outlive whoever started them: are they still ours, and how they are ended."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psutil

_POLL = 0.02
_BEHIND = {"gateway": 0, "email": 5, "mail": 5, "reports": 16, "deadletters": 16}
_OTHERS_BEHIND = 12


def until(condition: Callable[[], bool], timeout: float) -> bool:
    """Wait for `condition`, at most `timeout` seconds; False when it never came true."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True


def command_line(pid: int) -> str:
    """What `pid` runs, arguments joined by blanks; empty when it is gone, a zombie or nobody (0)."""
    try:
        return " ".join(psutil.Process(pid).cmdline()) if pid else ""
    except psutil.Error:
        return ""


def is_ours(pid: int, mark: str | float) -> bool:
    """A pid from a file may be somebody else's by now: ours has `mark` in its command line, or was `born` then."""
    return (mark > 0 and born(pid) == mark) if isinstance(mark, float) else mark in command_line(pid)


def born(pid: int) -> float:
    """When `pid` was started, in seconds since the machine was; 0 when it is gone, a zombie or nobody.

    It tells a process from a later one that got its pid, and does not change with the clock."""
    try:
        process = psutil.Process(pid)
        return round(process.create_time() - psutil.boot_time(), 2) if command_line(pid) else 0.0
    except psutil.Error:
        return 0.0


def is_stopped(pid: int) -> bool:
    """Whether `pid` exists but was told to stand still (SIGSTOP): it answers nothing, and nobody starts it again."""
    try:
        return bool(pid) and psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False


def trouble(pid: int) -> str:
    """Why `pid` does nothing; empty if it runs."""
    if not command_line(pid):
        return "it does not run"
    return "its process is stopped: it exists, but does not run" if is_stopped(pid) else ""


def since(pid: int) -> str | None:
    """When `pid` was started, in ISO 8601; None when it is gone."""
    try:
        return datetime.fromtimestamp(psutil.Process(pid).create_time(), UTC).isoformat(timespec="seconds")
    except psutil.Error:
        return None


def variable(pid: int, name: str) -> str:
    """What `pid` was started with as that variable; empty for none, or where that can't be known.

    Two fleets run the same programs: which one a process belongs to stands in its environment only."""
    try:
        return psutil.Process(pid).environ().get(name, "") if pid else ""
    except psutil.Error:
        return ""


def read_pid(path: Path) -> int:
    """The number in a pid file's first line; 0, which is nobody, without one."""
    try:
        return int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def end(pid: int, mark: str | float, grace: float = 20, how: signal.Signals = signal.SIGTERM) -> None:
    """End our process `pid` and its group: `how`, after `grace` seconds SIGKILL. Not ours: left alone."""
    if not is_ours(pid, mark):
        return
    signal_group(pid, how)
    if not until(lambda: not is_ours(pid, mark), grace):
        signal_group(pid, signal.SIGKILL)
        until(lambda: not is_ours(pid, mark), 5)


def put_behind(pid: int, service: str) -> None:
    """Let a service's process stand back while others want the processor.

    On one machine answering comes first. Next come the mails, which end an order's way: or they would be left to their
    one process when all others are idle. What no order waits for comes last. Work that waits is done in larger batches.
    """
    behind = os.getpriority(os.PRIO_PROCESS, 0) + _BEHIND.get(service, _OTHERS_BEHIND)
    with contextlib.suppress(ProcessLookupError):  # it has ended already
        os.setpriority(os.PRIO_PROCESS, pid, min(19, behind))


def signal_group(pid: int, what: signal.Signals) -> None:
    """Send to the whole group where `pid` leads one (all that we start do), else to it alone."""
    try:
        if os.getpgid(pid) == pid:
            os.killpg(pid, what)
        else:
            os.kill(pid, what)
    except ProcessLookupError:
        pass


def children(pid: int) -> list[int]:
    """The processes that `pid` started and that still run."""
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []
