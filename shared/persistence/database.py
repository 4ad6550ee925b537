"""One way to a database, SQLite or PostgreSQL: transactions, ordered loading, outages, migrations."""

import asyncio
import hashlib
import os
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    MetaData,
    Select,
    String,
    Text,
    TypeDecorator,
    any_,
    bindparam,
    event,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlmodel import SQLModel

from shared.config.tls import Tls
from shared.config.urls import database_address
from shared.observability import tracing
from shared.outages import Trouble, said, trouble
from shared.persistence import versions
from shared.persistence.sqlite import connect

if TYPE_CHECKING:
    from alembic.config import Config

log = structlog.get_logger(__name__)

Row = TypeVar("Row", bound=SQLModel)
kernel_metadata = MetaData()
"""The kernel's own tables (inbox, attempts, outbox, processes), the same in every service's database."""

_ROOT = Path(__file__).resolve().parents[2]
_LOAD_STEP = 5_000
COMMAND_SECONDS = 20
CONNECTIONS = 10
"""The most connections of one process to PostgreSQL. A lane needs one or two; twice as many serve no more requests."""
LOCKED_SECONDS = 10
"""How long a transaction waits for SQLite's one writer."""
ASK_MILLISECONDS = 8
"""SQLite's own wait for the write lock looks ever less often, up to every 100 ms. A process that writes all the time
leaves gaps of a few ms, so another one could wait for many seconds. Therefore the wait consists of waits of this
time."""


NOTED_SECONDS = 15.0
"""How long a trouble is reported after it was last met."""


class Outage(Exception):
    """Something that all messages need, such as the database, is away or unfit. Work waits for it, and no message is
    blamed."""


def is_outage(error: BaseException) -> bool:
    """Whether an error means that the database cannot be used, and not that a statement or its data is wrong."""
    if isinstance(error, DBAPIError):
        return trouble(error) is not None
    # Nothing else that runs in a transaction waits long enough for a TimeoutError: the driver gave up on the server.
    return isinstance(error, Outage | PoolTimeout | TimeoutError)


class Backoff:
    """Waits between tries: doubled from 0.1 s to 5 s, each with full jitter, so that processes do not retry
    together."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._longest = 0.1

    async def wait(self) -> None:
        await asyncio.sleep(random.uniform(0.05, self._longest))  # noqa: S311 - jitter, not a secret
        self._longest = min(self._longest * 2, 5.0)


class Database:
    """A service's database. SQLite gets one writing connection (its writers queue up anyway) and some for reading."""

    def __init__(self, url: str, tls: Tls | None = None) -> None:
        self.url, secure = database_address(url, tls)
        if self.is_sqlite:
            _make_folder(self.url)
            self._writer = sqlite_engine(self.url, "BEGIN IMMEDIATE", pool_size=1)
            self._reader = sqlite_engine(self.url, "BEGIN", pool_size=4)
            event.listen(self._writer.sync_engine, "handle_error", _open_anew)
        else:
            options: dict[str, Any] = {"server_settings": {"application_name": "malote"}, "timeout": 10}
            options["command_timeout"] = COMMAND_SECONDS  # a half-open connection never answers
            options |= secure
            self._writer = self._reader = create_async_engine(
                self.url,
                pool_size=CONNECTIONS,
                max_overflow=0,
                pool_pre_ping=False,
                hide_parameters=True,  # an error's text is logged, and rows contain personal data
                connect_args=options,
            )
            event.listen(self._writer.sync_engine, "handle_error", _suspect_all)
            event.listen(self._writer.sync_engine, "connect", _set_planner)

        self._noted: dict[Trouble, tuple[str, float]] = {}
        self.engines = {self._writer, self._reader}
        self._about = tracing.database(self.url) | {"db.operation.name": "COMMIT"}

    @property
    def place(self) -> str:
        """The place of the database, without login: a file, or host, port and name."""
        url = self.url
        return url.database or "" if self.is_sqlite else f"{url.host}:{url.port or 5432}/{url.database}"

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A session that commits at the end of the block. Raises `Outage` if the database is away or unfit."""
        with self._named():
            async with self._session(self._writer) as session:
                yield session
                with tracing.step("COMMIT", self._about):
                    await session.commit()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """A session that is rolled back at the end of the block; on SQLite it never waits for a writer. Raises `Outage`
        as `transaction` does."""
        with self._named():
            async with self._session(self._reader) as session:
                yield session

    @asynccontextmanager
    async def _session(self, engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
        async with AsyncSession(engine, expire_on_commit=False) as session:
            try:
                await session.connection()
            except OSError as error:  # while connecting, drivers raise the socket's own errors
                why = str(error) or "no answer in time"
                raise Outage(f"no connection to the database {self.place}: {why}") from error
            yield session

    @contextmanager
    def _named(self, *, is_news: bool = True) -> Iterator[None]:
        """Turn an error into an `Outage` that names the database and says what to do."""
        try:
            yield
        except DBAPIError as error:
            if (found := trouble(error)) is None:
                raise
            line = self._line(found, said(error))
            if is_news and found is not Trouble.AWAY:
                if not self.noted(found):
                    log.error("the database cannot be used", why=line)
                self._noted[found] = line, time.monotonic()
            raise Outage(line) from error
        except (PoolTimeout, TimeoutError) as error:
            raise Outage(self._line(Trouble.AWAY, str(error) or "no answer in time")) from error

    def _line(self, found: Trouble, why: str) -> str:
        return "; ".join(filter(None, [f"database {self.place}: {why}", found.value]))

    def noted(self, *kinds: Trouble) -> str | None:
        """The trouble of one of these kinds that was met in the last `NOTED_SECONDS`."""
        recent = time.monotonic() - NOTED_SECONDS
        found = [self._noted[kind] for kind in kinds if kind in self._noted]
        return next((line for line, at in found if at > recent), None)

    async def check(self, service: str) -> None:
        """Raise `Outage` if the database does not answer, or is not migrated to this version of the service."""
        with self._named(is_news=False):
            async with self._session(self._reader) as session:
                found = set((await session.scalars(text("SELECT version_num FROM alembic_version"))).all())
        if behind := versions.behind(service, found):
            raise Outage(self._line(Trouble.LACKS, behind))

    async def create_all(self, *metadatas: MetaData) -> None:
        """Create all tables, for tests; `migrate` creates those of a deployed database."""
        async with self._writer.begin() as connection:
            for metadata in (kernel_metadata, *metadatas):
                await connection.run_sync(metadata.create_all)

    async def dispose(self) -> None:
        for engine in self.engines:
            await engine.dispose()


def _set_planner(connection: Any, _: Any) -> None:
    """Set PostgreSQL's planner after connecting, because PgBouncer refuses these settings at the start of a connection.

    JIT costs more than it saves on short statements. A cached plan is made for the table as it was analysed last, so
    after a burst into an empty table it would scan all rows for a minute.
    """
    connection.run_async(lambda driver: driver.execute("SET jit = off; SET plan_cache_mode = force_custom_plan"))


def _suspect_all(failure: Any) -> None:
    """Replace all connections of the pool after one gave no answer: the others are most likely dead as well, and each
    would time out in its turn."""
    if isinstance(failure.original_exception, TimeoutError):
        failure.invalidate_pool_on_disconnect = True


def _open_anew(failure: Any) -> None:
    """Open a SQLite file anew after it was read-only: SQLite keeps a connection read-only when the file becomes
    writable."""
    if getattr(failure.original_exception, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY:
        failure.is_disconnect = True


def sqlite_engine(url: URL, begin: str, pool_size: int) -> AsyncEngine:
    """An engine for SQLite. A commit is on disk, and only the statement `begin` starts a transaction."""
    engine = create_async_engine(
        url, pool_size=pool_size, max_overflow=0, hide_parameters=True, connect_args={"async_creator_fn": connect}
    )
    patience = ASK_MILLISECONDS if begin == "BEGIN IMMEDIATE" else LOCKED_SECONDS * 1000

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        _make_private(url)  # at the first connection, so that an unused database has no file
        connection.isolation_level = None  # the driver would begin too late to take the write lock first
        cursor = connection.cursor()
        locked = f"busy_timeout={LOCKED_SECONDS * 1000}"
        for pragma in (locked, "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={patience}"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def start(connection: Any) -> None:
        cursor = connection.connection.cursor()
        end = time.monotonic() + LOCKED_SECONDS
        while time.monotonic() < end:
            try:
                cursor.execute(begin)
                return
            except (
                sqlite3.Error
            ) as error:  # raised here, it would be no error of SQLAlchemy, and damage would be blamed on messages
                if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                    break
        connection.exec_driver_sql(begin)  # the first statement raises the error

    return engine


async def load(session: AsyncSession, table: type[Row], keys: Iterable[Any], *, lock: bool = False) -> Sequence[Row]:
    """The rows with these values of the primary key, in order of the key.

    With `lock`, PostgreSQL locks them in that order, so that two batches do not deadlock.
    """
    query = _by_key(table, session.get_bind().dialect.name, lock=lock)
    wanted = sorted(set(keys))
    rows: list[Row] = []
    for start in range(0, len(wanted), _LOAD_STEP):
        rows += (await session.scalars(query, {"keys": wanted[start : start + _LOAD_STEP]})).all()
    return rows


@cache
def _by_key(table: type[Row], dialect: str, *, lock: bool) -> Select[Row]:
    """Cached, because building the statement costs about as much as running it."""
    column = inspect(table).primary_key[0]
    query = select(table).where(_among(dialect, column, partial(bindparam, "keys"))).order_by(column)
    if lock:  # read again, because the session's rows were not locked
        query = query.with_for_update().execution_options(populate_existing=True)
    return query


def among(session: AsyncSession, column: ColumnElement[Any], values: Collection[Any]) -> ColumnElement[bool]:
    """Whether the column has one of these values."""
    return _among(session.get_bind().dialect.name, column, partial(bindparam, None, list(values)))


def _among(dialect: str, column: ColumnElement[Any], values: Callable[..., BindParameter[Any]]) -> ColumnElement[bool]:
    """PostgreSQL gets the values as one array. With a parameter for each, nearly every batch would be a new statement
    that must be prepared first."""
    if dialect != "postgresql":
        return column.in_(values(expanding=True))
    of = column.type.impl_instance if isinstance(column.type, TypeDecorator) else column.type
    each = Text() if isinstance(of, String) else of  # a cast to VARCHAR(n) would cut off what is longer
    return column == any_(values(type_=ARRAY(each)))


async def one_process_at_a_time(session: AsyncSession, names: Iterable[str]) -> None:
    """Let other transactions that name one of these values wait here until this one ends, so that they do not change
    what it counts afterwards. Lock rows before this call. SQLite runs writing transactions one after the other
    anyway."""
    if session.get_bind().dialect.name == "postgresql":
        digests = {hashlib.sha256(name.encode()).digest()[:8] for name in names}
        for number in sorted(int.from_bytes(digest, signed=True) for digest in digests):
            await session.execute(select(func.pg_advisory_xact_lock(number)))


def _make_folder(url: URL) -> Path | None:
    """The path of a SQLite file, whose folder is created; None if the address is no path."""
    if not url.database or url.database.startswith(("file:", ":memory:")):
        return None
    path = Path(url.database)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _make_private(url: URL) -> None:
    """Let only the owner read a SQLite file, which has customers' data. SQLite gives the files beside it the same
    rights."""
    if not (path := _make_folder(url)):
        return
    with suppress(OSError):  # the first use reports the error
        if (
            not path.exists()
        ):  # an existing file is not opened, because closing it would release this process's locks on it
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        for each in (path, *(path.with_name(f"{path.name}-{more}") for more in ("wal", "shm"))):
            if each.exists():
                each.chmod(0o600)


def migrate(service: str, url: str, tls: Tls | None = None) -> None:
    """Bring a service's database to the newest version: the kernel's tables and the service's own.

    Must not be called from a running event loop (`await asyncio.to_thread(migrate, …)` there).
    """
    from alembic import command  # not at the top: a running service does not need it, and it is slow to import

    target, secure = database_address(url, tls)
    if target.get_backend_name() == "sqlite":
        _make_private(target)
    config = migrations_of(service)
    config.attributes["url"], config.attributes["options"] = target, secure
    command.upgrade(config, "heads")


def migrations_of(service: str) -> "Config":
    """Alembic's configuration for a service: the kernel's versions and the service's own."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("path_separator", "os")
    config.set_main_option("script_location", str(_ROOT / "shared/migrations"))
    config.set_main_option("version_locations", ":".join(map(str, versions.folders(service))))
    return config
