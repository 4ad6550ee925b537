"""Tells errors of a whole database from errors of one statement's data.

If the database is away, damaged, or lacks what the service needs, every message would fail, so all of them wait and
none is blamed. An error about the data of one statement (a constraint, a value that is too long) fails one message
only.
"""

import sqlite3
from enum import Enum

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError


class Trouble(Enum):
    """A fault of a database, and what to do about it."""

    AWAY = ""
    LACKS = "is it migrated? (malote migrate)"
    FORBIDS = "check the rights of this service's user, and that this is no standby"
    FULL = "make room on its disk"
    DAMAGED = "restore it from a backup, see docs/running.md"

    @property
    def is_total(self) -> bool:
        """Whether the service can do nothing until the fault is repaired. With other faults, it can still read."""
        return self in (Trouble.LACKS, Trouble.FORBIDS)


# SQLSTATE, by its beginning. https://www.postgresql.org/docs/current/errcodes-appendix.html
_STATES = {
    # connection lost, rollback by deadlock or serialization, out of resources, operator intervention, system error,
    # configuration file, login refused; no such database, not in the right state, lock not available, a transaction
    # ended for its age; prepared statements of another session, as behind a PgBouncer that shares sessions; a kept plan
    # of a table that was migrated meanwhile
    Trouble.AWAY: (
        *("08", "40", "53", "57", "58", "F0", "28"),
        *("3D000", "55000", "55P03", "25P03", "25P04", "26", "42P05", "0A000"),
    ),
    # no such table, column, object, schema; no constraint for an ON CONFLICT
    Trouble.LACKS: ("42P01", "42703", "42704", "3F000", "42P10"),
    # no privilege; read-only (a standby after a failover)
    Trouble.FORBIDS: ("42501", "25006"),
    Trouble.FULL: ("53100",),
    # corrupted data, a corrupted index, and what PostgreSQL itself does not understand
    Trouble.DAMAGED: ("XX",),
}
# SQLite's primary result codes. https://www.sqlite.org/rescode.html
_CODES = {
    Trouble.AWAY: (5, 6, 7, 10, 14, 15),  # BUSY, LOCKED, NOMEM, IOERR, CANTOPEN, PROTOCOL
    Trouble.FORBIDS: (8,),  # READONLY
    Trouble.FULL: (13,),
    Trouble.DAMAGED: (11, 26),  # CORRUPT, NOTADB
}
_PLAIN_ERROR = 1
"""SQLite's code for a wrong statement and for a missing table; the text tells them apart."""
_LACKING = ("no such table", "no such column", " has no column named ", "ON CONFLICT clause does not match")


def trouble(error: DBAPIError) -> Trouble | None:
    """What an error says about the database; None if it is about one statement or its data."""
    state, code = _state(error.orig), getattr(error.orig, "sqlite_errorcode", None)
    found: Trouble | None = None
    if state is not None:
        found = next((kind for kind, of in reversed(_STATES.items()) if state.startswith(of)), None)
    elif code is not None:
        found = next((kind for kind, of in _CODES.items() if code & 0xFF in of), None)
        if code == _PLAIN_ERROR and any(words in str(error.orig) for words in _LACKING):
            found = Trouble.LACKS
    elif isinstance(error, InterfaceError | OperationalError) and not _is_of_data(error.orig):
        found = Trouble.AWAY
    return found or (Trouble.AWAY if error.connection_invalidated else None)


def _state(raised: BaseException | None) -> str | None:
    """The SQLSTATE of an error, which SQLAlchemy does not copy from every error of the driver."""
    found: str | None = getattr(raised, "sqlstate", None) or getattr(raised and raised.__cause__, "sqlstate", None)
    return found


def _is_of_data(raised: BaseException | None) -> bool:
    """Whether the driver itself refused a value that it cannot send or read."""
    return isinstance(raised, sqlite3.Error) or isinstance(raised and raised.__cause__, ValueError)


def said(error: DBAPIError) -> str:
    """The database's message in one line, without the statement."""
    cause = (error.orig and error.orig.__cause__) or error.orig or error
    return str(cause).partition("\n")[0] or type(cause).__name__
