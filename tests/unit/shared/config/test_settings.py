"""Settings: which variable wins, and what a wrong one says."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from services.deadletters.settings import DeadlettersSettings
from services.email.settings import EmailSettings
from services.gateway.settings import GatewaySettings
from services.reports.settings import ReportsSettings
from shared.config.services import settings_of
from shared.config.settings import ServiceSettings, load, seconds

StockSettings = settings_of("stock")

SETTINGS: dict[str, type[ServiceSettings]] = {
    "STOCK": StockSettings,
    "GATEWAY": GatewaySettings,
    "EMAIL": EmailSettings,
    "REPORTS": ReportsSettings,
    "DEADLETTERS": DeadlettersSettings,
}


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


ISSUED = {"JWT_ISSUER": "https://issuer.example", "JWT_AUDIENCE": "malote"}
WRONG: list[tuple[str, str, dict[str, str]]] = [
    ("STOCK_PORT", "a lot", {}),
    ("STOCK_PORT", "99999", {}),
    ("STOCK_HEALTH_PORT", "0", {}),
    ("STOCK_HEALTH_PORT", "8123", {"PORT": "8123"}),
    ("STOCK_HOST", " ", {}),
    ("STOCK_LOG_LEVEL", "LOUD", {}),
    ("STOCK_RETRY_LADDER", "1s,soon", {}),
    ("STOCK_RETRY_LADDER", "0s", {}),
    ("STOCK_RETRY_LADDER", "99999999h", {}),
    ("STOCK_INBOX_KEEP_DAYS", "0", {}),
    ("STOCK_INBOX_KEEP_DAYS", "99999999999", {}),
    ("STOCK_GRACE_SECONDS", "-1", {}),
    ("STOCK_GRACE_SECONDS", "inf", {}),
    ("STOCK_GRACE_SECONDS", "1e300", {}),
    ("STOCK_TRACE_RATIO", "nan", {}),
    ("STOCK_JWT_MAX_DAYS", "inf", {}),
    ("STOCK_BATCH_LIMIT", "0", {}),
    ("STOCK_CONNECTIONS", "99999999999", {}),
    ("STOCK_AMQP_URL", "amqp://stock:hunter2@host:99999/", {}),
    ("STOCK_AMQP_URL", "amqp://stock:hunter2@host:many/", {}),
    ("STOCK_AMQP_URL", "amqp://stock:hunter2@one:5672,two:5672/", {}),
    ("STOCK_AMQP_URL", "amqp://stock:hunter2@one,two/", {}),
    ("STOCK_AMQP_URL", "amqp://stock:hunter2@one/,", {}),
    ("STOCK_AMQP_URL", "amqp://stock:hunter2@one/,two/", {}),
    ("STOCK_AMQP_URL", "amqp://stock:hunter2@one/,amqp://stock:hunter2@two:many/", {}),
    ("STOCK_AMQP_URL", "amqp://stock:hunter2@one/,amqp://stock:hunter3@two/", {}),
    ("STOCK_AMQP_URL", "amqp://stock:hunter2@one/;amqp://stock:hunter2@two/", {}),
    ("STOCK_AMQP_URL", "amqp://stock:hunter2@one/ amqp://stock:hunter2@two/", {}),
    ("STOCK_AMQP_URL", "amqp://stock:hunter2@host/?heartbeat=often", {}),
    ("STOCK_DATABASE_URL", "postgresql://stock:hunter2@host:99999/stock", {}),
    ("STOCK_OTLP_ENDPOINT", "http://host:99999", {}),
    ("STOCK_PROXIES", "0.0.0.0/0", {}),
    ("STOCK_PROXIES", "*", {}),
    ("STOCK_PROXIES", "10.0.0.1/8", {}),
    ("STOCK_JWT_SECRET", " " * 40, {}),
    ("STOCK_JWT_SECRET", "x" * 40, {}),
    ("STOCK_JWT_SECRET", "ab" * 20, {}),
    ("STOCK_JWT_JWKS_URL", "http://issuer.example/keys", ISSUED),
    ("STOCK_JWT_ISSUER", "", {"JWT_JWKS_URL": "https://issuer.example/keys", "JWT_AUDIENCE": "malote"}),
    ("STOCK_JWT_AUDIENCE", "", {"JWT_JWKS_URL": "https://issuer.example/keys", "JWT_ISSUER": "one"}),
    ("STOCK_JWT_AUDIENCE", " ", {"JWT_JWKS_URL": "https://issuer.example/keys", "JWT_ISSUER": "one"}),
    ("GATEWAY_REDIS_URL", "redis://host:99999/0", {}),
    ("GATEWAY_CUSTOMER_LIMIT", "inf/second", {}),
    ("EMAIL_SMTP_PORT", "99999", {}),
    ("EMAIL_SMTP_HOST", " ", {}),
    ("EMAIL_SMTP_TIMEOUT", "inf", {}),
    ("EMAIL_SMTP_PASSWORD", "hunter2", {}),
    ("REPORTS_TOKEN", "   ", {}),
    ("REPORTS_KEEP_DAYS", "nan", {}),
    ("DEADLETTERS_KEEP_DAYS", "inf", {}),
]


@pytest.mark.parametrize(("variable", "value", "others"), WRONG)
def test_a_wrong_value_ends_the_start_with_the_variables_name(
    variable: str,
    value: str,
    others: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    service, _, field = variable.partition("_")
    for name, told in {**others, field: value}.items():
        monkeypatch.setenv(f"{service}_{name}", told)
    with pytest.raises(SystemExit) as ended:
        load(SETTINGS[service])
    assert ended.value.code == 78
    said = capsys.readouterr().err
    assert f"{variable} (or MALOTE_{field}): " in said
    assert "hunter2" not in said


@pytest.mark.parametrize("url", ["https://issuer.example/keys", "http://127.0.0.1:9/keys", "http://localhost/keys"])
def test_keys_come_encrypted_or_from_this_machine(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, told in {**ISSUED, "JWT_JWKS_URL": url}.items():
        monkeypatch.setenv(f"STOCK_{name}", told)
    assert str(load(StockSettings).jwt_jwks_url) == url


def test_a_file_of_settings_that_is_no_text_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".env").write_bytes("STOCK_HOST=ação".encode("latin-1"))
    with pytest.raises(SystemExit) as ended:
        load(StockSettings)
    assert ended.value.code == 78
    assert capsys.readouterr().err == f"{tmp_path / '.env'} is no text in UTF-8\n"


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


def test_a_handler_may_take_what_is_set_for_its_lane_or_for_all_that_are_like_it() -> None:
    settings = StockSettings(_env_file=None, handler_limit="2m, reports.export=20m")  # type: ignore[call-arg]
    assert settings.handler_seconds("orders", outside=False) == 120
    assert settings.handler_seconds("reports.export", outside=True) == 1200
    assert settings.handler_seconds("email.outgoing", outside=True) == 900


@pytest.mark.parametrize("limit", ["30m", "0s", "soon", "1m,nowhere=5m", ""])
def test_a_limit_that_cannot_be_kept_or_is_for_no_lane_is_refused(limit: str) -> None:
    with pytest.raises(ValidationError):
        StockSettings(_env_file=None, handler_limit=limit)  # type: ignore[call-arg]
