"""Finds the servers that this machine needs, and installs them from its packages where it may."""

import contextlib
import ctypes.util
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from subprocess import PIPE, STDOUT

from deploy.local.files import alone

_RABBITMQ = (
    "/usr/lib/rabbitmq/bin/rabbitmq-server",
    "/usr/local/lib/rabbitmq/bin/rabbitmq-server",
    "/opt/homebrew/opt/rabbitmq/sbin/rabbitmq-server",
    "/usr/local/opt/rabbitmq/sbin/rabbitmq-server",
    "/opt/rabbitmq/sbin/rabbitmq-server",
)
_POSTGRES = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/usr/local/pgsql/bin",
)
_PANGO = {
    "pango-1.0": "libpango-1.0-0",
    "pangoft2-1.0": "libpangoft2-1.0-0",
    "harfbuzz-subset": "libharfbuzz-subset0",
}
"""The libraries that weasyprint loads, with Debian's packages of them."""
_FONTS = {"th": "fonts-noto-core", "ko": "fonts-wqy-microhei", "und-zsye": "fonts-noto-color-emoji"}
"""Debian's packages of fonts for nearly all scripts, for Chinese, Japanese and Korean, and for emojis; a pdf without
them has boxes. Each package has a language of fontconfig by which a missing font is found. Download 24 MB, on disk 58
MB."""
# Debian starts the servers that it installs; policy-rc.d prevents that.
_APT = """
set -e
if [ ! -e /usr/sbin/policy-rc.d ]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
"""


_SILENCE = 10.0
"""Seconds after which a log gets a line that shows the progress."""


class Missing(Exception):
    """The machine lacks a server that this program may not install; the text says what to do."""


def rabbitmq() -> Path:
    """The distribution's own start script: Debian's wrapper switches the user and drops the environment.

    Raises Missing when there is none and it can't be installed."""
    found = find_rabbitmq()
    if found is None:
        package("rabbitmq-server")
        found = find_rabbitmq()
    if found is None:
        raise Missing(
            "RabbitMQ is missing. Install it (Debian, Ubuntu: apt-get install rabbitmq-server; macOS: brew"
            " install rabbitmq), or start Docker, or set AMQP_URL to a broker that is there."
        )
    return found


def postgres() -> Path:
    """The folder with initdb and postgres (a client alone is not enough). Raises Missing, see rabbitmq()."""
    found = find_postgres()
    if found is None:
        package("postgresql")
        found = find_postgres()
    if found is None:
        raise Missing(
            "PostgreSQL's server is missing. Install it (Debian, Ubuntu: apt-get install postgresql; macOS:"
            " brew install postgresql)."
        )
    return found


def pango() -> bool:
    """Whether reports can be written as pdf. Everything else works without, so nothing is raised."""
    wanted = missing_fonts() if find_pango() else [*_PANGO.values(), *_FONTS.values()]
    if wanted:
        with contextlib.suppress(Missing):
            package(*wanted)
    return find_pango()


def missing_fonts() -> list[str]:
    """The missing packages of fonts; none if that cannot be known."""
    if shutil.which("fc-list") is None:
        return []
    return [
        name
        for language, name in _FONTS.items()
        if not subprocess.run(
            ["fc-list", f":lang={language}", "family"], capture_output=True, timeout=60
        ).stdout.strip()
    ]


def find_pango() -> bool:
    """Whether all libraries for pdf are installed."""
    return all(ctypes.util.find_library(name) for name in _PANGO)


def find_rabbitmq() -> Path | None:
    """Where RabbitMQ's start script is, if it is installed."""
    on_path = shutil.which("rabbitmq-server")
    candidates = [Path(name) for name in _RABBITMQ]
    if on_path and "script-wrapper" not in Path(on_path).resolve().name:
        candidates.append(Path(on_path))
    return next((path for path in candidates if path.exists()), None)


def find_postgres() -> Path | None:
    """The newest installed server's folder of programs."""
    folders = [path for pattern in _POSTGRES for path in Path("/").glob(pattern.lstrip("/"))]
    if on_path := shutil.which("initdb"):
        folders.append(Path(on_path).resolve().parent)
    whole = [
        path for path in folders if all((path / name).exists() for name in ("initdb", "postgres", "psql", "pg_isready"))
    ]
    return max(whole, key=_version, default=None)


def _version(folder: Path) -> int:
    number = re.search(r"\d+", folder.parent.name)
    return int(number[0]) if number else 0


@functools.cache
def docker() -> bool:
    """Whether a Docker engine answers; the client alone is of no use."""
    if shutil.which("docker") is None:
        return False
    try:
        asked = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True, timeout=10
        )
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode == 0


def as_root() -> list[str] | None:
    """The prefix that runs a command as root without a password; None if that is not allowed."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ["sudo", "-n"]
    return None


def package(*names: str) -> None:
    """Install packages with apt-get, with the progress in one line. Does nothing without root or apt-get."""
    prefix = as_root()
    if prefix is None or shutil.which("apt-get") is None:
        return
    command, name = [*prefix, "sh", "-c", _APT, "install", *names], " ".join(names)
    last: list[str] = []
    # One at a time on this machine: apt-get waits for the lock of its packages, but not for that of its lists.
    with alone(Path(tempfile.gettempdir()) / "malote-install.lock"):
        _show(f"installing {name} from the system's packages")
        shown_at = time.monotonic()
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=PIPE, stderr=STDOUT, text=True) as apt:
            for line in apt.stdout or ():
                last = [*last[-9:], line.rstrip()]
                if sys.stderr.isatty() or time.monotonic() - shown_at > _SILENCE:
                    shown_at = time.monotonic()
                    _show(f"installing {name}: {line.strip()[:80]}")
        if apt.returncode != 0:
            raise Missing("\n".join([f"apt-get could not install {name}:", *last]))
        _show(f"installed {name}\n")


def _show(text: str) -> None:
    """Show the progress: on a terminal one line that changes, elsewhere a line for each change."""
    line = f"\r\x1b[K{text}" if sys.stderr.isatty() else text.rstrip() + "\n"
    print(line, end="", file=sys.stderr, flush=True)
