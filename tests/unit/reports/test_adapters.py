"""What the exporter leaves behind, and what it refuses to be told."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jwt
import pytest
from pydantic import SecretStr, ValidationError

from services.reports.adapters import SCRATCH, Exporter, Owners
from services.reports.settings import ReportsSettings
from shared.persistence.database import Database
from tests.running import SECRET


def test_what_a_killed_process_left_is_removed_and_a_living_ones_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, ours, other = (tmp_path / name for name in (f"{SCRATCH}{ended.pid}-a", f"{SCRATCH}{os.getpid()}-b", "c-1-2"))
    for folder in (left, ours, other):
        folder.mkdir()
        (folder / "raw").write_text("Ana")
    settings = ReportsSettings(storage_url=str(tmp_path / "files"), database_url=f"sqlite:///{tmp_path / 'r.db'}")
    Exporter(settings, Database(settings.database))
    assert [folder.exists() for folder in (left, ours, other)] == [False, True, True]


@pytest.mark.parametrize("url", ["ftp://x", "s3://", "http://x/y", "gs://x"])
def test_a_storage_that_we_cannot_use_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(ValidationError, match="neither a folder nor a bucket"):
        ReportsSettings(storage_url=url)


def test_the_token_that_reports_makes_for_itself_may_only_read() -> None:
    settings = ReportsSettings(jwt_secret=SecretStr(SECRET))
    claims = jwt.decode(Owners(settings)._token(), SECRET, algorithms=["HS256"])
    assert (claims["role"], claims["access"]) == ("operator", "read")


@pytest.mark.parametrize("url", ["", "files", "/var/files", "file:///var/files", "s3://exports", "s3://exports/malote"])
def test_folders_and_buckets_are_taken(url: str) -> None:
    assert "://" in ReportsSettings(storage_url=url).storage
