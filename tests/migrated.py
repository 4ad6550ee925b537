"""Migrated databases: a service's migrations run once in each process of the tests, and what they lead to is copied
from then on. A test of the migrations themselves calls `shared.persistence.database.migrate`.
"""

import asyncio
import contextlib
import shutil
import sqlite3
import subprocess
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy.engine import make_url

from deploy.local import install
from shared.config.tls import Tls
from shared.persistence import database, versions

_FOLDER = tempfile.TemporaryDirectory(prefix="migrated")
_SCRIPTS: dict[str, str] = {}
_LOCK = threading.Lock()
"""Alembic has one context for the process."""


def migrate(service: str, url: str, tls: Tls | None = None) -> None:
    """Bring a service's database to the newest version.

    Must not be called from a running event loop (`await asyncio.to_thread(migrate, …)` there).
    """
    with _LOCK:
        if url.startswith("sqlite"):
            _migrate_file(service, url)
        elif "sslmode" in url:
            database.migrate(service, url, tls)
        else:
            asyncio.run(_migrate_on_server(service, url))


def _migrate_file(service: str, url: str) -> None:
    path, made = Path(make_url(url).database or ""), Path(_FOLDER.name) / f"{service}.db"
    if path.exists():
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as connection:
            if _is_newest(service, connection.execute("SELECT version_num FROM alembic_version")):
                return
        database.migrate(service, url)
        return
    if not made.exists():
        database.migrate(service, f"sqlite:///{made}")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copy2(made, path)


async def _migrate_on_server(service: str, url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        is_new = not await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        if is_new and service in _SCRIPTS:
            await connection.execute(_SCRIPTS[service])
            return
        with contextlib.suppress(asyncpg.UndefinedTableError):
            if _is_newest(service, await connection.fetch("SELECT version_num FROM alembic_version")):
                return
    finally:
        await connection.close()
    await asyncio.to_thread(database.migrate, service, url)
    if is_new:
        dump = [str(install.postgres() / "pg_dump"), "--no-owner", "--inserts", url]
        written = subprocess.run(dump, check=True, capture_output=True, text=True).stdout
        _SCRIPTS[service] = "\n".join(line for line in written.splitlines() if not line.startswith("\\"))


def _is_newest(service: str, rows: Iterable[Any]) -> bool:
    return {row[0] for row in rows} == versions.newest(service)
