"""Settings as files: which count, what is taken of them, and what a useless one says."""

import os
from pathlib import Path

import pytest

from shared.config import secret_files
from shared.config.services import settings_of
from shared.config.settings import load

StockSettings = settings_of("stock")

SECRET = "hunter2 and so on, long enough for a key"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The secrets' folder; the working directory is another one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MALOTE_SECRETS_DIR", str(tmp_path / "secrets"))
    (tmp_path / "secrets").mkdir()
    return tmp_path / "secrets"


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """What a service says that does not start."""
    with pytest.raises(SystemExit) as ended:
        load(StockSettings)
    assert ended.value.code == 78
    return capsys.readouterr().err


@pytest.mark.parametrize("name", ["STOCK_JWT_SECRET", "stock_jwt_secret", "malote_jwt_secret", "Malote_Jwt_Secret"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_file_named_like_a_variable_sets_it(folder: Path, name: str, end: str) -> None:
    (folder / name).write_bytes(f" {SECRET} {end}".encode())
    found = load(StockSettings).jwt_secret
    assert found
    assert found.get_secret_value() == f" {SECRET} "


def test_the_environment_wins_over_a_file_and_a_file_over_dotenv(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / ".env").write_text("STOCK_PORT=1\nSTOCK_BATCH_LIMIT=1\nMALOTE_HOST=dotenv\n")
    (folder / "stock_port").write_text("2\n")
    (folder / "stock_batch_limit").write_text("2\n")
    (folder / "malote_batch_limit").write_text("3\n")
    monkeypatch.setenv("MALOTE_PORT", "4")
    found = load(StockSettings)
    assert (found.port, found.batch_limit, found.host) == (4, 2, "dotenv")


def test_an_empty_file_sets_nothing(folder: Path) -> None:
    (folder / "stock_port").write_text("\n")
    assert load(StockSettings).port == 8002


def test_the_folder_can_be_named_in_dotenv(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALOTE_SECRETS_DIR")
    (folder.parent / ".env").write_text("MALOTE_SECRETS_DIR=secrets\n")
    (folder / "stock_port").write_text("5")
    assert load(StockSettings).port == 5


def test_without_a_folder_there_are_no_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALOTE_SECRETS_DIR")
    monkeypatch.setattr(secret_files, "USUAL", folder / "none")
    (folder / "stock_port").write_text("5")
    assert load(StockSettings).port == 8002
    monkeypatch.setattr(secret_files, "USUAL", folder)
    assert load(StockSettings).port == 5


def test_a_mounted_kubernetes_secret_is_read(folder: Path) -> None:
    """Its files are links into a folder that is itself a link, exchanged when the secret is."""
    (folder / "..2026_01_01").mkdir()
    (folder / "..2026_01_01/STOCK_PORT").write_text("6")
    (folder / "..data").symlink_to("..2026_01_01")
    (folder / "STOCK_PORT").symlink_to("..data/STOCK_PORT")
    (folder / "kubernetes.io").mkdir()
    assert load(StockSettings).port == 6


def test_what_belongs_to_others_is_not_looked_at(folder: Path) -> None:
    (folder / "orders_port").write_bytes(b"\xff" * 100_000)
    (folder / "malote").mkdir()
    assert load(StockSettings).port == 8002


@pytest.mark.parametrize(
    ("content", "why"), [(b"x" * 65_537, "more than 65536 bytes"), (SECRET.encode() + b"\xff", "no text in UTF-8")]
)
def test_a_file_that_is_no_setting_is_named_and_not_shown(
    folder: Path, content: bytes, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "stock_jwt_secret").write_bytes(content)
    said = refused(capsys)
    assert f"{folder}/stock_jwt_secret" in said
    assert why in said
    assert "hunter2" not in said


def test_what_cannot_be_read_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "STOCK_PORT").mkdir()  # what Docker makes of a file that is not there
    assert f"{folder}/STOCK_PORT cannot be read: Is a directory" in refused(capsys)
    (folder / "STOCK_PORT").rmdir()
    (folder / "STOCK_PORT").symlink_to("..data/STOCK_PORT")
    assert f"{folder}/STOCK_PORT cannot be read: No such file or directory" in refused(capsys)
    monkeypatch.setenv("MALOTE_SECRETS_DIR", "/no/such")
    assert "MALOTE_SECRETS_DIR=/no/such is no folder that can be read" in refused(capsys)


def test_a_name_in_two_spellings_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "STOCK_PORT").write_text("1")
    (folder / "stock_port").write_text("2")
    assert f"{folder} has STOCK_PORT twice" in refused(capsys)


def test_a_wrong_value_in_a_file_is_named_by_its_variable(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "malote_jwt_secret").write_text("hunter2")
    said = refused(capsys)
    assert "STOCK_JWT_SECRET (or MALOTE_JWT_SECRET): " in said
    assert "hunter2" not in said


def test_a_pipe_is_no_secret_and_nobody_waits_for_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(folder / "stock_jwt_secret")
    assert refused(capsys) == f"{folder / 'stock_jwt_secret'} is no file\n"


def test_a_pipe_is_no_certificate(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(folder / "ca.pem")
    monkeypatch.setenv("STOCK_TLS_CA_FILE", str(folder / "ca.pem"))
    assert "STOCK_TLS_CA_FILE (or MALOTE_TLS_CA_FILE): " in refused(capsys)
