"""A service migrates its own database, and waits until that is done: what images do, which have no command line."""

import asyncio
import threading
import time

import pytest
from sqlalchemy import text

from shared.migrations.__main__ import main
from shared.persistence.database import Database

SERVICE = "stock"


@pytest.fixture(autouse=True)
def configured(monkeypatch: pytest.MonkeyPatch, database_url: str) -> None:
    monkeypatch.setenv("STOCK_DATABASE_URL", database_url)


def _asked(url: str, statement: str) -> list[str]:
    async def ask() -> list[str]:
        database = Database(url)
        try:
            async with database.transaction() as session:
                found = await session.execute(text(statement))
                return list(found.scalars()) if found.returns_rows else []
        finally:
            await database.dispose()

    return asyncio.run(ask())


def test_done_twice_it_changes_nothing(database_url: str) -> None:
    assert main([SERVICE]) == 0
    versions = _asked(database_url, "SELECT version_num FROM alembic_version")
    assert len(versions) == 2, "the kernel's and its own"
    assert main([SERVICE]) == 0
    assert _asked(database_url, "SELECT version_num FROM alembic_version") == versions


def test_the_service_is_the_one_of_the_image_unless_another_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SERVICE", SERVICE)
    assert main([]) == 0
    assert capsys.readouterr().out == "stock: the database is at the newest version\n"
    monkeypatch.delenv("SERVICE")
    with pytest.raises(SystemExit):
        main([])


def test_who_waits_waits_until_it_is_done_and_says_for_what(capsys: pytest.CaptureFixture[str]) -> None:
    ended: list[int] = []
    waiting = threading.Thread(target=lambda: ended.append(main([SERVICE, "--wait"])), daemon=True)
    waiting.start()
    said, end = "", time.monotonic() + 20
    while "not yet at" not in said and time.monotonic() < end:
        said += capsys.readouterr().err
        time.sleep(0.02)
    assert "stock: waiting for the database: it is at no version, not yet at kernel_" in said
    assert main([SERVICE]) == 0
    waiting.join(20)
    assert ended == [0]


def test_a_database_that_a_newer_version_migrated_is_left_as_it_is_and_good_enough(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main([SERVICE])
    _asked(database_url, "UPDATE alembic_version SET version_num = 'stock_9999' WHERE version_num LIKE 'stock_%'")
    capsys.readouterr()
    assert main([SERVICE]) == 0
    assert "a newer version than this has migrated the database" in capsys.readouterr().out
    assert main([SERVICE, "--wait"]) == 0
    assert "stock_9999" in _asked(database_url, "SELECT version_num FROM alembic_version")


def test_no_database_is_one_line_without_the_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STOCK_DATABASE_URL", "postgresql://stock:hidden@127.0.0.1:1/stock")
    assert main([SERVICE]) == 1
    said = capsys.readouterr().err
    assert said.startswith("stock: Outage: no connection to the database")
    assert said.count("\n") == 1
    assert "hidden" not in said
