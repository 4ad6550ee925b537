"""Settings: which variable wins, and what a wrong one says."""

from pathlib import Path

import pytest

from services.stock.settings import StockSettings
from shared.settings import load, seconds


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_services_own_variable_wins_over_the_one_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALOTE_LOG_LEVEL", "ERROR")
    assert load(StockSettings).log_level == "ERROR"
    monkeypatch.setenv("STOCK_LOG_LEVEL", "DEBUG")
    assert load(StockSettings).log_level == "DEBUG"


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("STOCK_PORT=1\nMALOTE_INBOX_KEEP_DAYS=3\nOTHER=x\n")
    monkeypatch.setenv("MALOTE_PORT", "2")
    found = load(StockSettings)
    assert (found.port, found.inbox_keep_days) == (2, 3)


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCK_PORT", "")
    assert load(StockSettings).port == 8002


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("PORT", "a lot"),
        ("PORT", "70000"),
        ("LOG_LEVEL", "LOUD"),
        ("RETRY_LADDER", "1s,soon"),
        ("RETRY_LADDER", "0s"),
        ("INBOX_KEEP_DAYS", "0"),
        ("GRACE_SECONDS", "-1"),
        ("BATCH_LIMIT", "0"),
    ],
)
def test_a_wrong_value_ends_the_start_with_the_variables_name(
    field: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"STOCK_{field}", value)
    with pytest.raises(SystemExit) as ended:
        load(StockSettings)
    assert ended.value.code == 78
    assert f"STOCK_{field} (or MALOTE_{field}): " in capsys.readouterr().err


def test_a_wrong_secret_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MALOTE_JWT_SECRET", "too-short-to-tell")
    with pytest.raises(SystemExit):
        load(StockSettings)
    said = capsys.readouterr().err
    assert "STOCK_JWT_SECRET" in said
    assert "too-short-to-tell" not in said


def test_secrets_do_not_show_when_settings_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCK_AMQP_URL", "amqp://stock:hunter2@host/")
    monkeypatch.setenv("STOCK_DATABASE_URL", "postgresql://stock:hunter2@host/db")
    assert "hunter2" not in repr(load(StockSettings))


def test_the_ladder_is_a_list_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALOTE_RETRY_LADDER", "100ms, 2m")
    assert load(StockSettings).retry_ladder == ("100ms", "2m")


def test_durations_have_a_unit() -> None:
    assert [seconds(text) for text in ("500ms", "5s", "2m", "1h")] == [0.5, 5.0, 120.0, 3600.0]
    for wrong in ("", "5", "s", "-1s", "1.5s", "1d"):
        with pytest.raises(ValueError, match="is not a duration"):
            seconds(wrong)


def test_an_issuer_without_its_keys_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MALOTE_JWT_ISSUER", "https://issuer.example")
    with pytest.raises(SystemExit):
        load(StockSettings)
    assert "JWT_JWKS_URL" in capsys.readouterr().err
