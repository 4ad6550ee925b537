"""What is forked is a process like any other, of the code that is there when it is started."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.local import processes
from deploy.local.children import Children
from deploy.local.forking import Gone, Server
from tests import forking
from tests.running import until

TELL = "tests.unit.local.programs:tell"


def server_of(pid: int) -> psutil.Process:
    parent = psutil.Process(pid).parent()
    assert parent
    return parent


def told(**environment: str) -> list[str]:
    return forking.run(TELL, "two", "words", env={**os.environ, **environment}).stdout.splitlines()


def test_a_process_has_its_own_arguments_environment_session_and_name() -> None:
    process = forking.start("tests.unit.local.programs:stay", env={"TZ": "Asia/Tokyo", "WHO": "me"})
    try:
        assert processes.until(lambda: psutil.Process(process.pid).name() == "tests.unit.loca", 20)
        assert os.getpgid(process.pid) == os.getsid(process.pid) == process.pid
        assert psutil.Process(process.pid).cwd() == str(forking.ROOT)
        assert not psutil.Process(process.pid).net_connections("all")
    finally:
        process.terminate()
        assert process.wait(20) == -signal.SIGTERM
    assert told(TZ="Asia/Tokyo", WHO="me")[:3] == ["two words", "WHO=me", "JST"]


def test_no_two_processes_draw_the_same_and_each_is_itself() -> None:
    first, second = told(), told()
    assert len(first) == len(second) == 8
    assert not {*first[3:]} & {*second[3:]}


def test_a_process_ends_with_its_own_status_and_what_it_says_last_is_there() -> None:
    refused = forking.run("shared.service", "nothing")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "there is no services/nothing/handlers.py" in refused.stderr
    failed = forking.run("tests.unit.local.programs:fail")
    assert failed.returncode == 1
    assert "RuntimeError: on purpose" in failed.stderr


def test_what_forks_has_one_thread_and_no_socket_but_that_it_is_asked_on() -> None:
    process = forking.start("tests.unit.local.programs:stay")
    try:
        server = server_of(process.pid)
        assert server.num_threads() == 1
        assert [one.type for one in server.net_connections("all")] == [5]  # SOCK_SEQPACKET
    finally:
        process.kill()
        process.wait(20)


@pytest.fixture
def log() -> Iterator["tempfile._TemporaryFileWrapper[bytes]"]:
    with tempfile.NamedTemporaryFile() as file:
        yield file


async def test_a_killed_server_leaves_what_it_forked_alone_and_another_takes_its_place(
    log: "tempfile._TemporaryFileWrapper[bytes]",
) -> None:
    server = await asyncio.to_thread(Server.started)
    children = Children(server)
    stay = "tests.unit.local.programs"
    first = await children.start(stay, os.environ, log, "first")
    killed = server_of(first.pid)
    killed.kill()
    second = await children.start(stay, os.environ, log, "second")
    assert server_of(second.pid) != killed
    os.kill(first.pid, 0)
    for child in (first, second):
        os.kill(child.pid, signal.SIGTERM)
    assert await second.wait() == -signal.SIGTERM
    assert await first.wait() == 1, "nobody knows how it has ended"
    with pytest.raises(Gone):
        server.status(first.pid)


async def test_a_start_that_is_cancelled_leaves_no_process(
    log: "tempfile._TemporaryFileWrapper[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await asyncio.to_thread(Server.started)
    begun, may_return = [], threading.Event()
    start = server.start

    def slow(*arguments: Any) -> int:
        begun.append(psutil.Process(pid := start(*arguments)))
        may_return.wait(60)
        return pid

    monkeypatch.setattr(server, "start", slow)
    starting = asyncio.create_task(Children(server).start("tests.unit.local.programs", os.environ, log, "one"))
    await until(lambda: asyncio.to_thread(bool, begun), "the process")
    starting.cancel()
    may_return.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert server.status(begun[0].pid) == -signal.SIGKILL


def copied(folder: Path) -> Path:
    """The product, as another checkout has it."""
    for name in ("contracts", "deploy", "services", "shared"):
        shutil.copytree(forking.ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_a_process_has_the_code_that_is_there_when_it_is_started(tmp_path: Path) -> None:
    copy = copied(tmp_path)
    module = copy / "services" / "stock" / "domain.py"
    text = module.read_text()
    program = (
        "import asyncio, os, sys\n"
        "from deploy.local.children import Children\n"
        "from deploy.local.forking import Server\n"
        "async def main(children):\n"
        "    for _ in sys.stdin:\n"
        "        print(*await children.run('services.stock.version', os.environ, 'version'), flush=True)\n"
        "asyncio.run(main(Children(Server.started())))\n"
    )
    (copy / "services/stock/version.py").write_text("from services.stock.domain import VERSION\nprint(VERSION)\n")

    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        assert running.stdin
        assert running.stdout
        for version in ("first", "second"):
            module.write_text(f"{text}\nVERSION = {version!r}\n")
            running.stdin.write("\n")
            running.stdin.flush()
            assert running.stdout.readline() == f"0 {version}\n"
        running.stdin.close()
        assert running.wait(60) == 0
