"""A process of the fleet is started again whenever it ends, until it is abandoned."""

import asyncio
import os
import signal
from pathlib import Path

from deploy.local import processes
from deploy.local.children import Children
from deploy.local.ports import free_port
from deploy.local.program import Program
from tests.running import until


async def test_what_ends_is_started_again_and_what_is_abandoned_is_not(tmp_path: Path) -> None:
    said: list[str] = []
    program = Program(
        "stock-1", f"http.server {(port := free_port())}", port, dict(os.environ), tmp_path, Children(None)
    )
    await program.start(said.append, lambda: None, asyncio.Event())
    first = program.pid
    os.kill(first, signal.SIGKILL)

    async def another() -> bool:
        return program.pid not in (0, first)

    await until(another, "it to be started again")
    assert said[0].startswith("stock-1 ended (SIGKILL) after ")
    assert program.entry()["restarts"] == 1
    second = program.pid
    await program.abandon()
    await program.stop()
    assert (program.pid, processes.command_line(second), len(said)) == (0, "", 1)
    assert program.log == tmp_path / "stock-1.log"
    assert program.service == "stock"
