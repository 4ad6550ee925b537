"""Ports of the loopback address, the only one that anything of ours listens on here."""

import contextlib
import secrets
import socket
from collections.abc import Container

import psutil

from deploy.local import processes

HOST = "127.0.0.1"


_NOT_GIVEN_AWAY = range(20_000, 32_768)
"""Ports below those that Linux gives to connections and to whoever asks for any port."""


def free_port(besides: Container[int] = ()) -> int:
    """A port of the loopback address that nobody listens on now, and that is none of `besides`. Whoever is to listen
    there may stop and start again: in between, nobody gets it by chance."""
    while True:
        port = secrets.choice(_NOT_GIVEN_AWAY)
        if port in besides:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port


def accepts(port: int) -> bool:
    """Whether somebody listens on that port of the loopback address."""
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def holder(port: int) -> int:
    """The process that listens there; 0 where that can't be known, as with another user's."""
    try:
        found = psutil.net_connections("tcp")
    except psutil.Error:
        return 0
    listening = (c for c in found if c.status == psutil.CONN_LISTEN and getattr(c.laddr, "port", 0) == port)
    return next((c.pid or 0 for c in listening), 0)


def describe(pid: int) -> str:
    """` by python3 -m http.server (pid 12)`, or nothing for an unknown process."""
    return f" by {processes.command_line(pid)[:60]} (pid {pid})" if pid else ""
