"""Python programs as processes of their own, forked as `malote up` forks its services: a service is there in hundredths
of a second. What tests the start itself, or code of another folder, starts the interpreter instead.
"""

import contextlib
import functools
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO, Any

from deploy.local.forking import ROOT as ROOT
from deploy.local.forking import Server


class Forked:
    """A process, with what `subprocess.Popen` has of one."""

    def __init__(self, args: Sequence[str], pid: int, server: Server) -> None:
        self.args, self.pid, self._server = args, pid, server
        self.returncode: int | None = None
        self._descriptor = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Its exit status, as Popen gives it, or None while it runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises TimeoutExpired after `timeout` seconds."""
        status = self._look(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return status

    def send_signal(self, what: int) -> None:
        """Nothing once it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, what)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._descriptor], [], [], timeout)[0]:
            self.returncode = self._server.status(self.pid)
            os.close(self._descriptor)
        return self.returncode


def start(
    program: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    stdout: int | IO[Any] = subprocess.DEVNULL,
    stderr: int | IO[Any] = 2,
) -> Forked:
    """Start a module, as `python -m` does, or the function `module:name`, in a session of its own.

    It has the environment `env`, or ours, and nothing to read. Code of this checkout only."""
    with open(os.devnull, "wb") as nothing:
        out = nothing if stdout == subprocess.DEVNULL else stdout
        its, errors = (file if isinstance(file, int) else file.fileno() for file in (out, stderr))
        server = _server()
        pid = server.start(program, arguments, os.environ if env is None else env, its, errors)
    return Forked([program, *arguments], pid, server)


def run(
    program: str, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 60
) -> "subprocess.CompletedProcess[str]":
    """Run one to its end: its status, and what it printed. Raises TimeoutExpired after `timeout` seconds."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        child = start(program, *arguments, env=env, stdout=out, stderr=errors)
        try:
            status = child.wait(timeout)
        finally:
            child.kill()
        out.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess([program, *arguments], status, out.read(), errors.read())


@functools.cache
def _server() -> Server:
    """This process' own; it ends with us."""
    return Server.started("tests.running", "deploy.cli.app", "asyncpg", "sqlalchemy.dialects.postgresql.asyncpg")
