"""What a newcomer is told while everything is installed for the first time."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "deploy/local/bootstrap.sh"
LOCK = '[[package]]\nname = "a"\n\n[[package]]\nname = "b"\n'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with an environment whose uv takes as long as somebody writes to the pipe `done`."""
    (tmp_path / "deploy/local").mkdir(parents=True)
    shutil.copy(SCRIPT, tmp_path / "deploy/local")
    (tmp_path / "uv.lock").write_text(LOCK)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    (tmp_path / ".venv/lib/python3/site-packages/a-1.dist-info").mkdir(parents=True)
    uv = tmp_path / ".venv/uv/bin/uv"
    uv.parent.mkdir(parents=True)
    waits, ends = "test ! -p done || cat done >&2", "exit $(cat status 2>/dev/null || echo 0)"
    version = re.findall(r"^UV=(\S+)", SCRIPT.read_text(), re.MULTILINE)[0]
    is_asked = f'test "$1" != --version || {{ echo "uv {version}"; exit; }}'
    uv.write_text(f'#!/bin/sh\n{is_asked}\necho "$@" > told\n{waits}\n{ends}\n')
    uv.chmod(0o755)
    return tmp_path


def bootstrap(checkout: Path) -> "subprocess.Popen[str]":
    told = {"PATH": "/usr/bin:/bin", "TICK": "1", "PYTHON": sys.executable}
    command = ["sh", "deploy/local/bootstrap.sh", "--group", "bench"]
    out = subprocess.PIPE
    return subprocess.Popen(command, cwd=checkout, env=told, stdout=out, stderr=out, text=True)


def test_it_says_what_is_being_installed_and_how_far_it_is(checkout: Path) -> None:
    subprocess.run(["mkfifo", checkout / "done"], check=True)
    started = bootstrap(checkout)
    assert started.stdout
    first, second = started.stdout.readline(), started.stdout.readline()
    assert first == "installing what tests need into .venv, and compiling it; the first time takes a minute or two\n"
    assert second == "  1 s, 1 are there\n"
    (checkout / "done").write_text("")
    started.communicate(timeout=30)
    assert started.returncode == 0
    assert (checkout / "told").read_text().split()[-2:] == ["--group", "bench"]


def test_it_fails_where_uv_fails_and_nothing_goes_on_talking(checkout: Path) -> None:
    (checkout / "status").write_text("3")
    started = bootstrap(checkout)
    started.communicate(timeout=30)
    assert started.returncode == 3
