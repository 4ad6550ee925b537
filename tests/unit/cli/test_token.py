"""malote token revoke: what it asks of the gateway, and what it says."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from deploy.cli import token
from deploy.cli.client import gateway as client

BEFORE = "2026-11-02T14:30:00Z"


class Gateway:
    """Takes what is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, Any]]] = []

    def ask(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((method, path, body))
        return {"token_id": None, "subject": None, "before": BEFORE, "by": "eva"} | body


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    made = Gateway()

    def ask(question: Callable[[Gateway], Any]) -> Any:
        return question(made)

    monkeypatch.setattr(client, "ask", ask)
    return made


def test_a_token_is_revoked_by_its_id(gateway: Gateway) -> None:
    said = CliRunner().invoke(token.app, ["revoke", "--id", "abc"])
    assert (said.exit_code, said.stdout) == (0, "revoked: the token abc\n")
    assert gateway.asked == [("POST", "/v1/revocations", {"token_id": "abc"})]


def test_all_tokens_of_a_subject_are_revoked_until_a_time_that_is_said(gateway: Gateway) -> None:
    said = CliRunner().invoke(token.app, ["revoke", "--subject", "ana"])
    assert (said.exit_code, said.stdout) == (0, f"revoked: all that ana was given until {BEFORE}\n")
    assert gateway.asked == [("POST", "/v1/revocations", {"subject": "ana"})]
    said = CliRunner().invoke(token.app, ["revoke", "--subject", "ana", "--json"])
    assert json.loads(said.stdout)["before"] == BEFORE


@pytest.mark.parametrize("options", [[], ["--id", "abc", "--subject", "ana"]])
def test_what_to_revoke_is_said_in_one_way(gateway: Gateway, options: list[str]) -> None:
    said = CliRunner().invoke(token.app, ["revoke", *options])
    assert said.exit_code == 2
    assert gateway.asked == []
