"""The supervisor's processes: how each is started, and how it is seen that one has ended."""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from typing import IO, Protocol

from deploy.local import processes
from deploy.local.forking import ROOT, Gone, Server


class Child(Protocol):
    """A process that was started, as asyncio has it."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    async def wait(self) -> int: ...


class Children:
    """Starts processes: forked from `server`, or from a new one once that has ended or has old code.

    Without a server, or where the code cannot be imported, a process has an interpreter of its own."""

    def __init__(self, server: Server | None) -> None:
        self._server = server
        self._alone = asyncio.Lock()

    async def start(self, module: str, environment: Mapping[str, str], log: IO[bytes], name: str) -> Child:
        """Start a module with its arguments, as `python -m` does."""
        program, *arguments = module.split()
        async with self._alone:
            server = await asyncio.to_thread(self._up_to_date)
        if server:
            with contextlib.suppress(Gone):
                out = log.fileno()
                forking = asyncio.ensure_future(
                    asyncio.to_thread(server.start, program, arguments, environment, out, out, name)
                )
                try:
                    pid = await asyncio.shield(forking)
                except asyncio.CancelledError:  # or nobody would know of the process
                    with contextlib.suppress(Gone):
                        processes.signal_group(await forking, signal.SIGKILL)
                    raise
                return _Forked(pid, server)
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", program, *arguments,
            cwd=ROOT, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip

    async def run(self, module: str, environment: Mapping[str, str], name: str) -> tuple[int, str]:
        """Run one to its end: its status, and what it said."""
        with tempfile.TemporaryFile() as out:
            child = await self.start(module, environment, out, name)
            try:
                status = await child.wait()
            except asyncio.CancelledError:
                processes.signal_group(child.pid, signal.SIGKILL)
                raise
            out.seek(0)
            return status, out.read().decode(errors="replace").strip()

    def _up_to_date(self) -> Server | None:
        """None where nothing forks, or code is there that cannot be imported."""
        if self._server and not self._server.is_current():
            try:
                self._server = Server.started()
            except Gone:
                return None
        return self._server


class _Forked:
    """A child of `server`, which lives as long as one of these does."""

    def __init__(self, pid: int, server: Server) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server = server
        self._descriptor = os.pidfd_open(pid)
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._descriptor, self._end)

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        try:
            self.returncode = self._server.status(self.pid)
        except Gone:
            self.returncode = 1  # nobody knows how it has ended
        self._ended.set()

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode


def server() -> Server | None:
    """What forks here, if anything does. To be called while this process has no thread and no event loop.

    Only Linux says when a process ends that is not the asker's child, and macOS has libraries that a process must not
    have used before it forks."""
    return Server.forked() if sys.platform == "linux" else None
