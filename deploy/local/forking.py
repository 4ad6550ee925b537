"""Programs as processes that share what they import: each is forked from a server that has imported what all need.

A process is there in hundredths of a second, where the interpreter alone would work for two, and most of its memory is
the server's. The server has one thread, no event loop, and no socket but the one that it is asked on: whatever else it
had, each child would have half of it.
"""

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_CODE = ("contracts", "deploy", "services", "shared")
_PARTS = ("settings", "handlers", "api", "periodic")
_LATER = (
    "shared.service.folder", "shared.service.process", "deploy.local.mailsink", "deploy.local.watch",
    "aiosqlite", "sqlalchemy.dialects.sqlite.aiosqlite",
    "uvicorn.lifespan.on", "uvicorn.loops.uvloop", "uvicorn.protocols.http.httptools_impl",
    "anyio._backends._asyncio", "encodings.idna", "httpcore",
)  # fmt: skip
"""What services, their mail server and their watch import, most of it only once they run."""
_NOWHERE = {"AMQP_URL": "amqp://nobody:none@127.0.0.1:1/", "DATABASE_URL": "sqlite:///nowhere.db", "PORT": "1"}
_MOST = 2**18
"""Bytes of a request: what a process has as its environment."""
_FDS = 2
READY_SECONDS = 120.0
"""How long the server may take to import everything: on a machine that has much else to do."""


class Gone(Exception):
    """The server has ended. What was forked from it goes on."""


class Server:
    """What forks. It ends when nobody holds this object any more, or its process has ended.

    The processes are the server's children, so how each has ended is asked of it."""

    def __init__(self, line: socket.socket, code: object) -> None:
        self._line, self._code = line, code
        self._alone = threading.Lock()

    @classmethod
    def forked(cls) -> "Server":
        """From this process, which must have neither threads nor an event loop yet: it shares its memory, too."""
        code = _code()
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        preload()
        if not os.fork():
            with contextlib.suppress(BaseException):
                os.setsid()  # Ctrl-C on the terminal is for the supervisor alone
                os.dup2(its.fileno(), 3)
                os.closerange(4, os.sysconf("SC_OPEN_MAX"))
                serve(socket.socket(fileno=3))
            os._exit(0)
        its.close()
        gc.enable()
        return cls(ours, code)

    @classmethod
    def started(cls, *modules: str) -> "Server":
        """In an interpreter of its own, which imports the code as it is now, and `modules` too. Raises Gone."""
        code = _code()
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            subprocess.Popen(
                [sys.executable, "-m", "deploy.local.forking", str(its.fileno()), *modules],
                cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=[its.fileno()], start_new_session=True,
            )  # fmt: skip
        server = cls(ours, code)
        server._answer(READY_SECONDS)
        return server

    def is_current(self) -> bool:
        """Whether it lives, and neither our code nor what is installed has changed since it imported them."""
        with contextlib.suppress(Gone):
            return self._ask({}) == 0 and self._code == _code()
        return False

    def start(
        self, program: str, arguments: Sequence[str], env: Mapping[str, str], out: int, errors: int, name: str = ""
    ) -> int:
        """Start a module, as `python -m` does, or the function `module:name`, in a session of its own.

        It has the environment `env`, the files `out` and `errors` as its output, nothing to read, and `name` as the
        system's short name of it. The process's id. Raises Gone."""
        return self._ask({"program": program, "arguments": [*arguments], "env": {**env}, "name": name}, out, errors)

    def status(self, pid: int) -> int:
        """How a process that has ended did so, as subprocess.Popen says it. Raises Gone."""
        return self._ask({"ended": pid})

    def _ask(self, what: Mapping[str, object], *fds: int) -> int:
        with self._alone:
            try:
                socket.send_fds(self._line, [json.dumps(what).encode()], fds)
            except OSError as error:
                raise Gone(str(error)) from error
            return self._answer(None)

    def _answer(self, seconds: float | None) -> int:
        self._line.settimeout(seconds)
        try:
            said = self._line.recv(32)
        except OSError as error:
            raise Gone(str(error)) from error
        if not said:
            raise Gone("the process that forks has ended")
        return int(said)


def _code() -> object:
    """Changes whenever a file of ours does, or another version of a package is installed."""
    packages = [one for folder in sys.path if folder.endswith("site-packages") for one in os.listdir(folder)]
    found: dict[object, object] = dict.fromkeys(one for one in packages if one.endswith(".dist-info"))
    for folder in _CODE:
        for path, folders, files in os.walk(ROOT / folder):
            folders[:] = [one for one in folders if one != "__pycache__"]
            found |= {one: _stat(one) for one in (Path(path, file) for file in files)}
    return found


def _stat(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        there = path.stat()
        return there.st_mtime_ns, there.st_size
    return None


# -- the server -------------------------------------------------------------------------------------------------------


def preload(*modules: str) -> None:
    """Import what services need, also later than at their start. What cannot be imported is left out: the process that
    needs it says why. Garbage collection is off from then on, so that what is here stays where it is."""
    from shared.config.services import services

    gc.disable()
    parts = [f"services.{service}.{part}" for service in services() for part in _PARTS]
    for module in (*_LATER, *parts, *modules):
        with contextlib.suppress(Exception):
            if find_spec(module):
                importlib.import_module(module)
    _warm(services())
    gc.collect()
    gc.freeze()


def _warm(services: Iterable[str]) -> None:
    """Build each service once, and let go of it: much of what it is built with is made when it is first used, and is
    shared if that is here."""
    from shared.service.folder import service_in

    kept = dict(os.environ)
    for name in services:
        os.environ.clear()
        os.environ.update({f"{name.upper()}_{variable}": value for variable, value in _NOWHERE.items()})
        with contextlib.suppress(Exception, SystemExit), contextlib.redirect_stderr(io.StringIO()):
            service_in(name)
    os.environ.clear()
    os.environ.update(kept)


def serve(line: socket.socket) -> None:
    """Fork as asked until the other end of `line` is closed."""
    while True:
        said, fds, _, _ = socket.recv_fds(line, _MOST, _FDS)
        if not said:
            return
        asked: dict[str, Any] = json.loads(said)
        answer = 0
        if "ended" in asked:
            _, status = os.waitpid(asked["ended"], 0)
            answer = os.waitstatus_to_exitcode(status)
        elif "program" in asked and not (answer := os.fork()):
            _become(asked, fds)
        for fd in fds:
            os.close(fd)
        line.send(str(answer).encode())


def _become(asked: dict[str, Any], fds: list[int]) -> None:
    """Never returns: this process is the program from now on."""
    status: object = 1
    try:
        os.setsid()
        os.chdir(ROOT)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, fd in enumerate(fds, 1):
            os.dup2(fd, number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        with contextlib.suppress(OSError):
            Path("/proc/self/comm").write_text(asked["name"] or asked["program"])
        os.environ.clear()
        os.environ.update(asked["env"])
        time.tzset()
        gc.enable()
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
    asked_on = socket.socket(fileno=int(sys.argv[1]))
    preload(*sys.argv[2:])
    asked_on.send(b"0")
    serve(asked_on)
