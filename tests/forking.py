"""Python programs as processes of their own, forked from a server that has imported what they import: a service is
there in hundredths of a second, where the interpreter alone would work for two. What tests the start itself, or code
of another folder, starts the interpreter instead.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import importlib.util
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
_FDS = 2


class Forked:
    """A process, with what `subprocess.Popen` has of one."""

    def __init__(self, args: Sequence[str], pid: int, line: socket.socket) -> None:
        self.args, self.pid, self._line = args, pid, line
        self.returncode: int | None = None

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
        if self.returncode is None and select.select([self._line], [], [], timeout)[0]:
            said = self._line.recv(16)
            assert said, f"the server of {self.args} has ended"
            self.returncode = int(said)
            self._line.close()
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
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    line.connect(_server())
    asked = {"program": program, "arguments": arguments, "env": dict(os.environ if env is None else env)}
    with open(os.devnull, "wb") as nothing:
        out = nothing if stdout == subprocess.DEVNULL else stdout
        fds = [file if isinstance(file, int) else file.fileno() for file in (out, stderr)]
        socket.send_fds(line, [json.dumps(asked).encode()], fds)
    return Forked([program, *arguments], int(line.recv(16)), line)


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
def _server() -> str:
    """Where this process' own listens; it ends with us."""
    folder = tempfile.TemporaryDirectory(prefix="forking")
    address = f"{folder.name}/socket"
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.forking", address],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert server.stdin
    assert server.stdout
    assert server.stdout.readline(), "the server of forks did not start"

    def end() -> None:
        server.stdin.close()  # type: ignore[union-attr]
        server.wait()
        folder.cleanup()

    atexit.register(end)
    return address


# -- the server -------------------------------------------------------------------------------------------------------


def _preload() -> None:
    """What services, their programs and the command line import, also later than at their start."""
    from contracts.flow import SERVICES

    modules = [f"services.{service}.{part}" for service in SERVICES for part in ("settings", "handlers", "api")]
    modules = [module for module in modules if importlib.util.find_spec(module)]
    modules += [
        "tests.running",
        "deploy.cli.app",
        "deploy.local.mailsink",
        "uvicorn.protocols.http.httptools_impl",
        "uvloop",
    ]
    modules += [
        "aiosqlite",
        "asyncpg",
        "sqlalchemy.dialects.sqlite.aiosqlite",
        "sqlalchemy.dialects.postgresql.asyncpg",
    ]
    for module in modules:
        importlib.import_module(module)


def _serve(address: str) -> None:
    """Fork as asked until the pipe on stdin is closed. One thread: what is forked has no lock that nobody holds."""
    gc.disable()
    _preload()
    gc.freeze()
    gc.enable()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen(100)
    wakes, wake = socket.socketpair()
    wakes.setblocking(False)
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    print("ready", flush=True)
    lines: dict[int, socket.socket] = {}
    while True:
        readable, _, _ = select.select([0, listener, wakes], [], [])
        if 0 in readable:
            return
        if listener in readable:
            line, _ = listener.accept()
            asked, fds, _, _ = socket.recv_fds(line, 2**18, _FDS)
            if pid := os.fork():
                for fd in fds:
                    os.close(fd)
                line.send(str(pid).encode())
                lines[pid] = line
            else:
                _become(json.loads(asked), fds)
        if wakes in readable:
            wakes.recv(4096)
            _bury(lines)


def _bury(lines: dict[int, socket.socket]) -> None:
    """Say of each that has ended how it did."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with lines.pop(pid) as line, contextlib.suppress(OSError):  # who asked for it may be gone
                line.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(asked: dict[str, Any], fds: list[int]) -> None:
    """Never returns: this process is the program from now on."""
    status: object = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, fd in enumerate(fds, 1):
            os.dup2(fd, number)
        os.closerange(3, 1024)
        os.environ.clear()
        os.environ.update(asked["env"])
        module, _, function = asked["program"].partition(":")
        sys.argv = [module, *asked["arguments"]]
        if function:
            status = getattr(importlib.import_module(module), function)()
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            status = 0
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _end(status)


def _end(status: object) -> None:
    """End as the interpreter does, but leave the memory alone: to free it would copy all that we share."""
    if isinstance(status, str):
        print(status, file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for file in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            file.flush()
    os._exit(int(isinstance(status, str)) if not isinstance(status, int) else status & 0xFF)


if __name__ == "__main__":
    _serve(sys.argv[1])
