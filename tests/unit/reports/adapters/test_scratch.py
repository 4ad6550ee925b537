"""What the exporter leaves behind in a temporary folder."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from services.reports.adapters.exporter import Exporter
from services.reports.adapters.scratch import PREFIX
from services.reports.settings import ReportsSettings
from shared.persistence.database import Database


def test_what_a_killed_process_left_is_removed_and_a_living_ones_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, ours, other = (tmp_path / name for name in (f"{PREFIX}{ended.pid}-a", f"{PREFIX}{os.getpid()}-b", "c-1-2"))
    for folder in (left, ours, other):
        folder.mkdir()
        (folder / "raw").write_text("Ana")
    settings = ReportsSettings(storage_url=str(tmp_path / "files"), database_url=f"sqlite:///{tmp_path / 'r.db'}")
    Exporter(settings, Database(settings.database))
    assert [folder.exists() for folder in (left, ours, other)] == [False, True, True]
