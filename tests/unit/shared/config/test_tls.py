"""Certificates as settings: a useless one ends the start, and says which."""

from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from shared.config.services import settings_of
from shared.config.settings import load
from shared.config.tls import Tls
from shared.config.urls import database_address

StockSettings = settings_of("stock")


@pytest.fixture
def pem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of them: an authority, and two certificates with their keys."""
    monkeypatch.chdir(tmp_path)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for name in ("ours", "theirs"):
        made = authority.issue_cert("localhost")
        made.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
        made.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
    return tmp_path


def test_certificates_are_settings(pem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALOTE_TLS_CA_FILE", str(pem / "ca.pem"))
    monkeypatch.setenv("STOCK_TLS_CERT_FILE", str(pem / "ours.pem"))
    monkeypatch.setenv("STOCK_TLS_KEY_FILE", str(pem / "ours.key"))
    tls = load(StockSettings).tls
    assert tls == Tls(pem / "ca.pem", pem / "ours.pem", pem / "ours.key")
    assert tls.context.check_hostname
    assert any("trustme" in str(known["subject"]) for known in tls.context.get_ca_certs())


@pytest.mark.parametrize(
    ("told", "variable", "why"),
    [
        ({"CA": "none.pem"}, "CA", "no certificates can be read from none.pem: No such file"),
        ({"CA": "ours.key"}, "CA", "no certificates can be read from ours.key"),
        ({"CA": "/"}, "CA", "no certificates can be read from /: Is a directory"),
        ({"CERT": "ours.pem"}, "KEY", "set TLS_CERT_FILE and TLS_KEY_FILE both, or none"),
        ({"KEY": "ours.key"}, "KEY", "set TLS_CERT_FILE and TLS_KEY_FILE both, or none"),
        ({"CERT": "ours.pem", "KEY": "theirs.key"}, "KEY", "can be read from ours.pem and theirs.key"),
        ({"CERT": "ours.pem", "KEY": "locked.key"}, "KEY", "the key is encrypted"),
    ],
)
def test_a_file_that_is_of_no_use_ends_the_start(
    pem: Path,
    told: dict[str, str],
    variable: str,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    key = load_pem_private_key((pem / "ours.key").read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    (pem / "locked.key").write_bytes(locked)
    for name, path in told.items():
        monkeypatch.setenv(f"MALOTE_TLS_{name}_FILE", path)
    with pytest.raises(SystemExit) as ended:
        load(StockSettings)
    assert ended.value.code == 78
    said = capsys.readouterr().err
    assert f"STOCK_TLS_{variable}_FILE (or MALOTE_TLS_{variable}_FILE): " in said
    assert why in said


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql://u:hunter2@h/d?sslmode=secure", "sslmode is one of disable, allow, prefer, require, verify-ca"),
        ("postgresql://u:hunter2@h/d?sslrootcert=/ca.pem", "set as TLS_CA_FILE"),
        ("postgresql://u:hunter2/@h:x/d", "write sqlite:///PATH or postgresql://"),
        ("mysql://u:hunter2@h/d", "starts with sqlite:// or postgresql://"),
    ],
)
def test_a_database_url_that_is_none_is_refused_at_the_start(
    url: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STOCK_DATABASE_URL", url)
    with pytest.raises(SystemExit):
        load(StockSettings)
    said = capsys.readouterr().err
    assert "STOCK_DATABASE_URL" in said
    assert why in said
    assert "hunter2" not in said


@pytest.mark.parametrize("url", ["localhost:5672", "http://u:hunter2@h/", "amqps:///", "u:hunter2@h"])
def test_a_broker_url_that_is_none_is_refused_at_the_start(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MALOTE_AMQP_URL", url)
    with pytest.raises(SystemExit):
        load(StockSettings)
    said = capsys.readouterr().err
    assert "STOCK_AMQP_URL (or MALOTE_AMQP_URL): " in said
    assert "amqps:// for TLS" in said
    assert "hunter2" not in said


def test_an_address_without_sslmode_is_left_to_the_driver() -> None:
    url, options = database_address("postgresql://u@h/d?application_name=x")
    assert (str(url), options) == ("postgresql+asyncpg://u@h/d?application_name=x", {})
    assert database_address("sqlite:////x.db?sslmode=require")[1] == {}
