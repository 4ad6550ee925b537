"""No command ends in a traceback, whatever it is cut short by."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MALOTE = str(ROOT / ".venv/bin/malote")


@pytest.mark.parametrize(
    "command", ["--help", "topology show --json", "asyncapi", "logs --from {log} --since 2000-01-01"]
)
def test_a_reader_that_has_seen_enough_is_no_error(command: str, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    line = {"timestamp": "2026-01-31T09:00:00.000000Z", "level": "info", "service": "a", "event": "done"}
    log.write_text((json.dumps(line) + "\n") * 20_000)
    done = subprocess.run(
        ["bash", "-c", f"{MALOTE} {command.format(log=log)} | head -n 1"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""


def test_ctrl_c_is_no_error_while_a_command_works(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text(json.dumps({"timestamp": "2026-01-31T09:00:00.000000Z", "service": "a", "event": "done"}) + "\n")
    command = [MALOTE, "logs", "--follow", "--json", "--from", str(log)]
    started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)
    assert started.stdout
    assert "done" in started.stdout.readline(), "it works by now"
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=60)
    assert said == ""


def test_ctrl_c_is_no_error_while_a_command_is_loading() -> None:
    interrupts_itself = (
        "import sys, os, signal; sys.argv = ['malote']; import deploy.cli; os.kill(os.getpid(), signal.SIGINT)"
    )
    done = subprocess.run([sys.executable, "-c", interrupts_itself], cwd=ROOT, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, b"")
