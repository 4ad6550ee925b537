"""A PostgreSQL cluster that belongs to one folder, from the machine's own binaries, run by any user."""

import contextlib
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path
from urllib.parse import quote

from deploy.local import install, processes
from deploy.local.ports import HOST

_USER = "malote"
# A socket's path may have 107 bytes at most, so a folder deeper than this keeps to TCP.
_LONGEST_SOCKET_FOLDER = 85


class PostgresCluster:
    """A cluster on the loopback address where everybody on this machine is trusted, for tests; `settings` are those of
    postgresql.conf.

    PostgreSQL refuses to run as root: root's cluster runs as `postgres` (else `nobody`), and where that user
    can't reach `folder`, the cluster lives in /var/tmp instead (`self.folder` says where)."""

    def __init__(self, folder: Path, port: int, **settings: str) -> None:
        self.port, self._own = port, settings
        self._owner = _owner()
        self.folder = folder.absolute() if self._owner is None or _reachable(folder) else _elsewhere(folder)
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The postmaster's process id, 0 when it does not run."""
        return self._server.pid if self._server is not None and self._server.poll() is None else 0

    def url(self, database: str) -> str:
        """A database's address."""
        return f"postgresql://{_USER}@{HOST}:{self.port}/{quote(database)}"

    def start(self, timeout: float = 30) -> None:
        """Make the cluster if it is new, start it, wait until it takes connections.

        Raises install.Missing without PostgreSQL, RuntimeError with the log's last lines when it ends at once
        or `timeout` seconds have passed."""
        programs = install.postgres()
        data = self.folder / "data"
        self._prepare(programs, data)
        processes.end(processes.read_pid(data / "postmaster.pid"), str(data), how=signal.SIGINT)
        log = self.folder / "log"
        with log.open("ab") as out:
            self._server = subprocess.Popen(
                [str(programs / "postgres"), "-D", str(data), *self._settings()],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self._owner,
                group=self._group,
                extra_groups=None if self._owner is None else [],
            )
        ready = processes.until(lambda: self.pid == 0 or self._answers(programs), timeout)
        if not ready or self.pid == 0:
            self.kill()
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise RuntimeError(f"PostgreSQL did not start; the end of its log ({log}):\n{tail}")

    def stop(self, timeout: float = 20) -> None:
        """End it at once but in order: open transactions are rolled back and everything is written."""
        if self._server is not None and self._server.poll() is None:
            self._server.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to all of it, as a crash would; start() recovers. (Backends are no part of its group.)"""
        if self._server is not None and self._server.poll() is None:
            backends = processes.children(self._server.pid)
            for pid in (self._server.pid, *backends):
                processes.signal_group(pid, signal.SIGKILL)
            self._server.wait()
            processes.until(lambda: not any(processes.command_line(pid) for pid in backends), 5)
        self._server = None

    def remove(self) -> None:
        """Kill it, and delete all that it kept: the folder may not be one that its maker would clean up."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def create_database(self, name: str) -> str:
        """A new, empty database; its address."""
        self._sql(f'create database "{name}"')
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is connected to it. Nothing if there is none."""
        self._sql(f'drop database if exists "{name}" with (force)')

    @property
    def _group(self) -> int | None:
        return None if self._owner is None else pwd.getpwnam(self._owner).pw_gid

    def _prepare(self, programs: Path, data: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._owner is not None:
            shutil.chown(self.folder, self._owner, self._group)
        if not (data / "PG_VERSION").exists():
            shutil.rmtree(data, ignore_errors=True)
            initdb = [str(programs / "initdb"), "-D", str(data), "-U", _USER, "-A", "trust", "-E", "UTF8"]
            made = subprocess.run(
                [*initdb, "--locale=C", "--no-sync"],
                cwd=self.folder,
                capture_output=True,
                text=True,
                user=self._owner,
                group=self._group,
                extra_groups=None if self._owner is None else [],
            )
            if made.returncode != 0:
                raise RuntimeError(f"initdb failed:\n{made.stdout}{made.stderr}")

    def _settings(self) -> list[str]:
        sockets = str(self.folder) if len(str(self.folder)) < _LONGEST_SOCKET_FOLDER else ""
        settings = {"listen_addresses": HOST, "port": self.port, "unix_socket_directories": sockets}
        settings |= {"max_connections": 200, "fsync": "on", **self._own}
        return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

    def _answers(self, programs: Path) -> bool:
        ask = [str(programs / "pg_isready"), "-q", "-h", HOST, "-p", str(self.port)]
        return subprocess.run(ask, capture_output=True).returncode == 0

    def _sql(self, statement: str) -> None:
        psql = [
            str(install.postgres() / "psql"),
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            statement,
            self.url("postgres"),
        ]
        done = subprocess.run(psql, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{statement}: {done.stderr.strip()}")


def _owner() -> str | None:
    """Whom the server runs as: ourselves (None), and for root the first of these that the machine has."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise install.Missing("PostgreSQL does not run as root, and there is neither a user `postgres` nor `nobody`.")


def _reachable(folder: Path) -> bool:
    """Whether everybody may walk down to `folder`."""
    return all(parent.stat().st_mode & 0o001 for parent in folder.absolute().parents if parent.exists())


def _elsewhere(folder: Path) -> Path:
    return Path("/var/tmp") / f"malote-postgres-{hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:12]}"
