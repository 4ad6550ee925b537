"""Files that others read at the same time."""

import stat
from pathlib import Path

import pytest

from deploy.local.environment import Environment
from deploy.local.files import alone, write_private


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


def test_a_reader_keeps_what_it_has_opened(tmp_path: Path) -> None:
    write_private(tmp_path / "state", "old and long")
    with (tmp_path / "state").open() as reading:
        write_private(tmp_path / "state", "new")
        assert reading.read() == "old and long"
