"""The local mailbox as the command line reads it."""

import asyncio
import json
import mailbox
import os
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from deploy.cli import mail, output
from deploy.cli.errors import Failed


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """Three mails, the third one the newest."""
    folder = tmp_path / "mail"
    made = mailbox.Maildir(folder, create=True)
    for number in (1, 2, 3):
        message = EmailMessage()
        message["Message-ID"] = f"<id-{number}@shop>"
        message["To"] = f"c{number}@example.com"
        message["Subject"] = f"Pedido nº {number}"
        message["Date"] = "Mon, 02 Nov 2026 14:30:00 +0000"
        message.set_content("Olá!")
        path = folder / "new" / made.add(message)
        os.utime(path, (number, number))
    return folder


def test_the_newest_mail_comes_first(box: Path) -> None:
    assert [found["subject"] for found in mail.newest(box, 2)] == ["Pedido nº 3", "Pedido nº 2"]


def test_an_addressee_is_looked_for_behind_the_newest_ones(box: Path) -> None:
    assert [found["id"] for found in mail.newest(box, 1, to="c1@example.com")] == ["id-1@shop"]


def test_a_mail_is_found_by_what_a_list_shows_of_its_id(box: Path) -> None:
    (found,) = mail.newest(box, 1)
    assert mail.headers(mail.find(box, mail.short(found["id"])))["id"] == found["id"]
    assert mail.headers(mail.find(box, "<id-2@shop>"))["id"] == "id-2@shop"
    assert mail.headers(mail.find(box, ""))["id"] == "id-3@shop"


def test_a_mail_that_is_not_there_is_said_so(box: Path, tmp_path: Path) -> None:
    with pytest.raises(Failed, match="no mail nothere"):
        mail.find(box, "nothere")
    with pytest.raises(Failed, match="no mail in"):
        mail.find(tmp_path / "none", "")
    assert mail.newest(tmp_path / "none") == []


def run(*arguments: str) -> Any:
    return CliRunner().invoke(mail.app, arguments)


def test_the_mailbox_is_listed_and_one_mail_is_shown_as_text(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "_mailbox", lambda: box)
    assert [line.split()[:2] for line in run("list", "--limit", "2").stdout.splitlines()] == [
        ["id", "date"], ["id-3", "2026-11-02"], ["id-2", "2026-11-02"],
    ]  # fmt: skip
    assert run("list", "--to", "nobody@example.com").stdout == "no mails\n"
    assert json.loads(run("list", "--json").stdout)["data"][0]["to"] == "c3@example.com"
    said = run("show", "id-2").stdout
    assert "Subject: Pedido nº 2\nDate: Mon, 02 Nov 2026 14:30:00 +0000\nMessage-ID: <id-2@shop>\n\nOlá!\n" in said
    assert json.loads(run("show", "--json").stdout)["text"] == "Olá!\n"


def asked(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[tuple[str, tuple[Any, ...]]]:
    """A gateway that answers so; what it is asked."""
    seen: list[tuple[str, tuple[Any, ...]]] = []

    class Gateway:
        def __getattr__(self, name: str) -> Any:
            async def said(*given: Any, **_: Any) -> Any:
                seen.append((name, given))
                return answer

            return said

    monkeypatch.setattr("deploy.cli.client.gateway.ask", lambda question: asyncio.run(question(Gateway())))
    return seen


def test_what_email_wrote_is_listed_with_what_the_server_said(monkeypatch: pytest.MonkeyPatch) -> None:
    written = {"id": str(uuid4()), "created_at": "2026-11-02T14:30:00Z", "status": "FAILED", "kind": "placed"}
    seen = asked(monkeypatch, {"data": [written | {"smtp_answer": "550 no such user"}], "has_more": False})
    said = run("written", "--status", "FAILED").stdout.splitlines()[1]
    assert said.split() == [written["id"], "2026-11-02", "FAILED", "placed", "550", "no", "such", "user"]
    assert seen == [("mails", (20, "FAILED"))]
    asked(monkeypatch, {"data": [], "has_more": False})
    assert run("written").stdout == "no mails\n"


@pytest.mark.parametrize(("limit", "how"), [(20, "; --limit lists up to 100\n"), (100, "\n")])
def test_a_list_that_ends_at_its_limit_says_so_beside_it(
    limit: int, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output.hint_at_more({"data": [{}] * limit, "has_more": True}, limit)
    output.hint_at_more({"data": [{}] * limit, "has_more": False}, limit)
    assert tuple(capsys.readouterr()) == ("", f"there are more than these {limit}{how}")


def test_failed_mails_are_sent_again_by_their_ids_or_all_of_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    one = uuid4()
    seen = asked(monkeypatch, {"job_id": "j", "status": "SUCCESS", "result": {"resent": 1_200}})
    assert run("resend", str(one)).stdout.splitlines()[-1] == "resent 1,200"
    assert run("resend", "--failed", "--since", "30m", "--json").stdout.count("resent") == 1
    (by_id,), (lately,) = (given for _, given in seen)
    assert by_id == {"ids": [str(one)]}
    ago = datetime.now(UTC) - datetime.fromisoformat(lately["failed_since"])
    assert timedelta(minutes=30) <= ago < timedelta(minutes=31)


@pytest.mark.parametrize("given", [[], [str(uuid4()), "--failed"], ["--failed", "--since", "yesterday"]])
def test_what_is_not_clear_is_not_sent_again(given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = asked(monkeypatch, None)
    assert run("resend", *given).exit_code == 2
    assert seen == []


def test_a_resend_that_finds_nothing_fails_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    asked(monkeypatch, {"job_id": "j", "status": "FAILURE", "error": {"code": "none_failed"}})
    failed = run("resend", "--failed")
    assert isinstance(failed.exception, Failed)
    assert str(failed.exception).startswith("no mail has failed in the last 24h: nothing is sent again;")
    assert failed.output == ""
    assert str(run("resend", str(uuid4())).exception).startswith("none of these mails has failed")
    assert json.loads(run("resend", "--failed", "--json").stdout)["error"] == {"code": "none_failed"}
