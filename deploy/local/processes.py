"""Processes that may outlive their parent: which belong to this fleet, and how they are ended."""

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
    """Wait for `condition`, at most `timeout` seconds; return False if it did not come true."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True


def command_line(pid: int) -> str:
    """The command line of `pid`, arguments joined by blanks; empty if it is gone, a zombie or 0."""
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
    """Whether `pid` is stopped (SIGSTOP): it answers nothing, and is not restarted."""
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
    """The value of an environment variable of `pid`; empty if it has none, or if that cannot be known.

    Two fleets run the same programs. Only the environment says to which fleet a process belongs."""
    try:
        return psutil.Process(pid).environ().get(name, "") if pid else ""
    except psutil.Error:
        return ""


def read_pid(path: Path) -> int:
    """The number in the first line of a pid file; 0 if there is none."""
    try:
        return int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def end(pid: int, mark: str | float, grace: float = 20, how: signal.Signals = signal.SIGTERM) -> None:
    """End a process of this fleet and its group by `how`, after `grace` seconds by SIGKILL. Other processes are left
    alone."""
    if not is_ours(pid, mark):
        return
    signal_group(pid, how)
    if not until(lambda: not is_ours(pid, mark), grace):
        signal_group(pid, signal.SIGKILL)
        until(lambda: not is_ours(pid, mark), 5)


def put_behind(pid: int, service: str) -> None:
    """Lower the priority of a service's process.

    On one machine, HTTP answers come first. Mails come next: they end an order's way, and would otherwise wait until
    all other processes are idle. Work for which no order waits comes last. Waiting work is done in larger batches.
    """
    behind = os.getpriority(os.PRIO_PROCESS, 0) + _BEHIND.get(service, _OTHERS_BEHIND)
    with contextlib.suppress(ProcessLookupError):  # it has ended already
        os.setpriority(os.PRIO_PROCESS, pid, min(19, behind))


def signal_group(pid: int, what: signal.Signals) -> None:
    """Send a signal to the process group of `pid`, if `pid` leads one, as all processes of a fleet do; else to `pid`
    alone."""
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
