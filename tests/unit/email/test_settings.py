"""What the email service can be told."""

import pytest
from pydantic import ValidationError

from services.email.settings import EmailSettings


def told(monkeypatch: pytest.MonkeyPatch, **variables: str) -> EmailSettings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return EmailSettings(_env_file=None)


def test_operators_are_a_list_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = told(monkeypatch, EMAIL_OPERATORS="ana@example.com, rui@example.com,")
    assert settings.operators == ("ana@example.com", "rui@example.com")


def test_nobody_is_an_operator_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch).operators == ()


def test_the_sender_names_the_shop_and_its_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = told(monkeypatch, EMAIL_SENDER="Café do João <oi@cafe.example>")
    assert (settings.shop, settings.sender_address, settings.domain) == (
        "Café do João",
        "oi@cafe.example",
        "cafe.example",
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("EMAIL_SENDER", "nobody"),
        ("EMAIL_SENDER", "Shop <a@b.example>\nBcc: x@y.example"),
        ("EMAIL_SENDER", "=?utf-8?q?=0a?= <a@b.example>"),
        ("EMAIL_OPERATORS", "ana@example.com, not an address"),
        ("EMAIL_TIMEZONE", "Mars/Olympus"),
        ("EMAIL_TIMEZONE", "../etc/passwd"),
        ("EMAIL_SMTP_TLS", "yes"),
        ("EMAIL_SMTP_PORT", "0"),
        ("EMAIL_SMTP_TIMEOUT", "0"),
    ],
)
def test_a_wrong_setting_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    with pytest.raises(ValidationError, match=variable.removeprefix("EMAIL_").lower()):
        told(monkeypatch, **{variable: value})
