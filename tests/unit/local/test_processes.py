"""What was started by somebody who is gone: ended if it is ours, left alone if only its pid is."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local import processes
from tests.unit.local.running import sleeper


def test_our_process_is_ended() -> None:
    with sleeper("ours") as process:
        processes.end(process.pid, "ours", grace=10)
        assert process.wait(5) == -signal.SIGTERM


def test_a_pid_that_somebody_else_has_now_is_left_alone() -> None:
    with sleeper("somebody") as process:
        processes.end(process.pid, "ours", grace=0)
        assert process.poll() is None


def test_what_does_not_end_when_asked_is_killed() -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", deaf, "deaf"], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        processes.end(process.pid, "deaf", grace=0)
        assert process.wait(5) == -signal.SIGKILL


def test_nobody_is_nobody(tmp_path: Path) -> None:
    assert processes.command_line(0) == ""
    assert processes.variable(0, "PATH") == ""
    assert not processes.is_ours(0, "init")
    assert processes.read_pid(tmp_path / "none") == 0


def test_a_process_that_ended_runs_nothing_and_can_be_ended_again() -> None:
    with sleeper("ours") as process:
        process.kill()
        process.wait(5)
        assert processes.command_line(process.pid) == ""
        processes.end(process.pid, "ours", grace=0)


@pytest.mark.parametrize(("text", "pid"), [("12\n", 12), ("12 more\n", 12), ("", 0), ("twelve", 0)])
def test_a_pid_file_says_a_pid_or_nobody(tmp_path: Path, text: str, pid: int) -> None:
    (tmp_path / "pid").write_text(text)
    assert processes.read_pid(tmp_path / "pid") == pid


def test_a_process_tells_what_it_was_started_with() -> None:
    with sleeper(MALOTE_DATA="/somewhere") as process:
        assert processes.variable(process.pid, "MALOTE_DATA") == "/somewhere"
        assert processes.variable(process.pid, "NOT_SET") == ""


def test_a_group_is_signalled_by_its_leader_and_nobody_else_is_with_it() -> None:
    child = "import subprocess, sys; subprocess.Popen(['sleep', '60']); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as leader:
        assert leader.stdout
        leader.stdout.readline()
        (sleeping,) = processes.children(leader.pid)
        processes.signal_group(leader.pid, signal.SIGKILL)
        leader.wait(5)
        assert processes.until(lambda: not processes.command_line(sleeping), 5)
