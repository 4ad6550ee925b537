"""Ports of the loopback address, the only address on which a local fleet listens."""

import contextlib
import secrets
import socket
from collections.abc import Container

import psutil

from deploy.local import processes

HOST = "127.0.0.1"


_NOT_GIVEN_AWAY = range(20_000, 32_768)
"""Ports below the range from which Linux gives ports to connections and to programs that ask for any port."""


def free_port(besides: Container[int] = ()) -> int:
    """A free port of the loopback address that is not in `besides`. The system gives it to no other program, also while
    its owner restarts."""
    while True:
        port = secrets.choice(_NOT_GIVEN_AWAY)
        if port in besides:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port


def accepts(port: int, host: str = HOST) -> bool:
    """Whether a process listens on that port, of the loopback address unless another is given."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def holder(port: int) -> int:
    """The process that listens on a port; 0 if that cannot be known, as with another user's process."""
    try:
        found = psutil.net_connections("tcp")
    except psutil.Error:
        return 0
    listening = (c for c in found if c.status == psutil.CONN_LISTEN and getattr(c.laddr, "port", 0) == port)
    return next((c.pid or 0 for c in listening), 0)


def describe(pid: int) -> str:
    """` by python3 -m http.server (pid 12)`, or nothing for an unknown process."""
    return f" by {processes.command_line(pid)[:60]} (pid {pid})" if pid else ""
