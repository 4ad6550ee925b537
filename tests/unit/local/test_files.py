"""Files that others read at the same time."""

import errno
import os
import stat
from pathlib import Path

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session
from sqlalchemy import text

from deploy.local.environment import Environment, Misconfigured
from deploy.local.files import alone, write_private
from deploy.local.mailsink import Sink
from shared.persistence.database import Database


def test_a_private_file_is_its_owners_alone_even_if_it_was_not_before(tmp_path: Path) -> None:
    path = tmp_path / "new" / "secrets.json"
    path.parent.mkdir()
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o600)
    assert [*path.parent.iterdir()] == [path]


def test_the_data_folder_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALOTE_DATA", str(tmp_path / "data"))
    Environment().make_folders()
    with alone(tmp_path / "other" / "lock"):
        made = [tmp_path / "data", tmp_path / "other"]
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in made] == [0o700, 0o700]


def test_what_others_could_read_is_its_owners_alone_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALOTE_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir(mode=0o755)
    for name in ("orders.db", "orders.db-wal"):
        (tmp_path / "data" / name).touch(mode=0o644)
    mask = os.umask(0o022)
    try:
        Environment().make_folders()
        (tmp_path / "data" / "new").touch()
    finally:
        os.umask(mask)
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data").iterdir()}
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert found == {"orders.db": 0o600, "orders.db-wal": 0o600, "new": 0o600, "logs": 0o700}


def test_a_file_of_another_owner_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALOTE_DATA", str(tmp_path))
    (tmp_path / "orders.db").touch()
    (tmp_path / "orders.db").chmod(0o644)

    def chmod(path: Path, mode: int) -> None:
        if path.name == "orders.db":
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))

    monkeypatch.setattr(Path, "chmod", chmod)
    with pytest.raises(Misconfigured) as refused:
        Environment().make_folders()
    assert str(refused.value).startswith(f"{tmp_path / 'orders.db'}: Operation not permitted; give {tmp_path} and all")
    assert "MALOTE_DATA" in str(refused.value)


def test_what_a_database_removes_meanwhile_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALOTE_DATA", str(tmp_path))
    monkeypatch.setattr(Path, "glob", lambda *_: [tmp_path / "orders.db-journal"])
    Environment().make_folders()


async def test_a_services_own_database_is_its_owners_alone(tmp_path: Path) -> None:
    (tmp_path / "old.db").touch(mode=0o644)
    for name in ("old.db", "folder/new.db"):
        database = Database(f"sqlite:///{tmp_path / name}")
        async with database.transaction() as session:
            await session.execute(text("CREATE TABLE a (b int)"))
            modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / name).parent.glob("*.db*")}
        await database.dispose()
        assert modes == {0o600}, name
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o700


async def test_a_database_that_nobody_connects_to_makes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    await Database("sqlite:///file:/tmp/x.db?mode=ro&uri=true").dispose()
    await Database("sqlite:///x.db").dispose()
    assert [*tmp_path.iterdir()] == []


async def test_the_mail_sinks_log_has_no_addresses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    envelope = Envelope()
    envelope.rcpt_tos, envelope.content = ["ana@shop.example"], b"Subject: Ana\nMessage-ID: <1@malote.example>\n\nAna"
    assert await Sink(tmp_path / "mail").handle_DATA(SMTP(None), Session(None), envelope) == "250 OK"
    said = capsys.readouterr().out
    assert "<1@malote.example>" in said
    assert "Ana" not in said
    assert "ana@" not in said


def test_a_reader_keeps_what_it_has_opened(tmp_path: Path) -> None:
    write_private(tmp_path / "state", "old and long")
    with (tmp_path / "state").open() as reading:
        write_private(tmp_path / "state", "new")
        assert reading.read() == "old and long"
