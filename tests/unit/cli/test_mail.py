"""The local mailbox as the command line reads it."""

import mailbox
import os
from email.message import EmailMessage
from pathlib import Path

import pytest

from deploy.cli import mail
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
