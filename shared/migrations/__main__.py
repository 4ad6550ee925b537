"""Migrates the database of one service: `python -m shared.migrations [SERVICE] [--wait]`.

For images, which contain one service and no command line. `--wait` only waits until the database is migrated, so that
no process of a new version meets the tables of an old one. A database that a newer version has migrated is accepted, so
that an older version can be deployed again.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence

from sqlalchemy import inspect, text

from shared.config.services import settings_of
from shared.config.settings import ServiceSettings, load
from shared.persistence import versions
from shared.persistence.database import Backoff, Database, migrate


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 once the database has this version or a newer one; else 1, with the reason on stderr."""
    asked = argparse.ArgumentParser(prog="python -m shared.migrations", description=__doc__)
    asked.add_argument("service", nargs="?", default=os.environ.get("SERVICE"), help="default: $SERVICE")
    asked.add_argument("--wait", action="store_true", help="migrate nothing; wait until it is done")
    options = asked.parse_args(arguments)
    if not options.service:
        asked.error("name a service, or set SERVICE")
    settings = load(settings_of(options.service))
    try:
        if options.wait:
            asyncio.run(_wait(settings))
        elif asyncio.run(_versions(settings)) - versions.known(settings.name).keys():
            print(f"{settings.name}: a newer version than this has migrated the database; there is nothing to do")
        else:
            migrate(settings.name, settings.database, settings.tls)
            print(f"{settings.name}: the database is at the newest version")
    except Exception as error:  # any error: a Job tries again, and its log must have the reason
        print(f"{settings.name}: {_line(error)}", file=sys.stderr)
        return 1
    return 0


async def _versions(settings: ServiceSettings) -> set[str]:
    """The versions in the database; empty if it was never migrated. Raises if the database does not answer."""
    database = Database(settings.database, settings.tls)
    try:
        async with database.reading() as session:
            connection = await session.connection()
            if not await connection.run_sync(lambda sync: inspect(sync).has_table("alembic_version")):
                return set()
            return set((await session.scalars(text("SELECT version_num FROM alembic_version"))).all())
    finally:
        await database.dispose()


async def _wait(settings: ServiceSettings) -> None:
    backoff, said = Backoff(), ""
    while True:
        try:
            found = await _versions(settings)
            why = versions.behind(settings.name, found)
            if why is None:
                return
        except Exception as error:
            why = _line(error)
        if why != said:
            print(f"{settings.name}: waiting for the database: {why}", file=sys.stderr, flush=True)
            said = why
        await backoff.wait()


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no answer'}"


if __name__ == "__main__":
    sys.exit(main())
