"""Who is told of what is wrong, when, and how often."""

import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from deploy.local.environment import Environment
from deploy.local.finding import Finding
from deploy.local.ports import HOST, free_port
from deploy.local.troubles import Digest, Memory
from deploy.local.watch import LOOK_EVERY, Watch
from services.email.settings import EmailSettings

AT = datetime(2026, 11, 2, 14, 30, tzinfo=UTC)
WELL = [Finding("broker", "answers"), Finding("disk", "80 GB free")]
BROKEN = [Finding("broker", "no answer within 3 s", "broker_down"), Finding("orders", "", "service_waits")]
FULL = [Finding("disk", "0.1 GB free", "disk")]


def names(troubles: Any) -> list[str]:
    return [trouble.finding.what for trouble in troubles]


def test_a_finding_is_told_once_when_it_has_lasted_and_once_when_it_is_over() -> None:
    memory = Memory(lasting=60, between=300)
    memory.see(BROKEN, 0, AT)
    assert memory.digest(59) is None
    memory.see(BROKEN, 60, AT)
    digest = memory.digest(60)
    assert digest
    assert names(digest.begun) == ["broker"], "who waits for it is not told"
    memory.told(digest, 60)
    memory.see(BROKEN, 500, AT)
    assert memory.digest(500) is None, "once"
    memory.see(WELL, 600, AT)
    over = memory.digest(600)
    assert over
    assert (names(over.begun), names(over.over)) == ([], ["broker"])
    memory.told(over, 600)
    memory.see(WELL, 2000, AT)
    assert memory.digest(2000) is None


def test_what_lasted_less_than_a_minute_is_never_told() -> None:
    memory = Memory(lasting=60, between=300)
    for start in range(0, 6000, 60):
        memory.see(BROKEN, start, AT)
        memory.see(BROKEN, start + 45, AT)
        memory.see(WELL, start + 50, AT)
        assert memory.digest(start + 50) is None


def test_two_mails_are_never_closer_than_five_minutes_and_the_second_tells_all_that_came_meanwhile() -> None:
    memory = Memory(lasting=60, between=300)
    memory.see(BROKEN, 0, AT)
    memory.see(BROKEN, 70, AT)
    first = memory.digest(70)
    assert first
    memory.told(first, 70)
    memory.see(FULL, 100, AT)
    memory.see(FULL, 369, AT)
    assert memory.digest(369) is None
    second = memory.digest(370)
    assert second
    assert (names(second.begun), names(second.over)) == (["disk"], ["broker"])


def test_a_critical_trouble_passes_the_five_minutes_once_for_its_kind_and_the_rest_waits() -> None:
    memory = Memory(lasting=60, between=300)
    told: list[tuple[int, list[str]]] = []
    disk = Finding("disk", "0.4 GB free", "disk")
    closed = [Finding(service, "read-only", "database_read_only") for service in ("stock", "orders")]
    for now in range(0, 700, 10):
        seen = [*BROKEN] if now < 70 else [disk, closed[0]] if now < 130 else [disk, *closed]
        memory.see(seen, now, AT)
        if digest := memory.digest(now):
            told.append((now, [*names(digest.begun), *(f"{name} is over" for name in names(digest.over))]))
            memory.told(digest, now)
    assert told == [(60, ["broker"]), (130, ["stock"]), (360, ["disk", "orders", "broker is over"])]


def test_critical_troubles_of_ever_new_kinds_keep_the_rest_from_nobody() -> None:
    memory = Memory(lasting=0, between=300)
    rest = Finding("mail", "no answer", "mail_server")
    memory.told(Digest([], []), 0)
    for now, kind in ((100, "disk_full"), (200, "database"), (290, "broker_down")):
        memory.see([rest, Finding("it", "", kind)], now, AT)
        digest = memory.digest(now)
        assert digest
        assert (names(digest.begun), digest.over) == (["it"], [])
        memory.told(digest, now)
    assert "mail" in names((memory.digest(300) or Digest([], [])).begun)


def test_what_could_not_be_told_while_it_lasted_is_told_once_it_is_over() -> None:
    """A mail server that was frozen for a quarter of an hour: nobody could be told of that."""
    memory = Memory(lasting=60, between=300)
    frozen = [Finding("mail", "no answer", "mail_server")]
    memory.see(frozen, 0, AT)
    memory.see(frozen, 900, AT)
    assert memory.digest(900)
    memory.see(WELL, 915, AT)
    digest = memory.digest(915)
    assert digest
    assert (names(digest.begun), names(digest.over)) == ([], ["mail"])
    assert digest.over[0].lasted(915) == 915


def test_dead_letters_are_left_to_the_email_service() -> None:
    memory = Memory(lasting=60, between=300)
    memory.see([Finding("dead letters", "3 wait", "dead_letters")], 0, AT)
    assert memory.digest(1000) is None


def test_the_process_that_comes_after_tells_the_end_of_what_was_told_and_nothing_twice() -> None:
    before, after = Memory(lasting=60, between=300), Memory(lasting=60, between=300)
    before.see([*BROKEN, *FULL], 0, datetime.now(UTC) - timedelta(minutes=5))
    digest = before.digest(60)
    assert digest
    before.told(digest, 60)
    after.remember(before.kept(), 0)
    after.see(BROKEN, 10, AT)
    told = after.digest(70)
    assert told
    assert (names(told.begun), names(told.over)) == ([], ["disk"])


class Sink:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.came = threading.Event()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """The name that aiosmtpd calls."""
        mail = message_from_bytes(envelope.content or b"", policy=default)  # type: ignore[arg-type]
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        return "250 OK"


@pytest.fixture
def sink() -> Iterator[tuple[Sink, int]]:
    """A mail server, and its port."""
    kept, port = Sink(), free_port()
    server = Controller(kept, hostname=HOST, port=port, server_hostname="localhost")
    server.start()
    yield kept, port
    server.stop()


def watching(
    looks: list[list[Finding]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: int, locale: str
) -> Watch:
    """Sees one of `looks` after the other, and tells at once what it sees."""
    monkeypatch.setenv("MALOTE_DATA", str(tmp_path))
    settings = EmailSettings(smtp_host=HOST, smtp_port=port, operators="ana@example.com, bo@example.com",
                             operators_locale=locale, sender="Café <shop@example.com>")  # fmt: skip
    return Watch(Environment(), settings, lambda _: looks.pop(0), Memory(lasting=0, between=0))


@pytest.mark.parametrize(
    ("locale", "words"),
    [
        (
            "en",
            ("something is wrong (broker)", "does not answer, so every message waits", "What to do:", "What is over:"),
        ),
        ("pt-BR", ("algo está errado (broker)", "não responde", "O que fazer:", "O que foi resolvido:")),
    ],
)
def test_operators_are_mailed_in_their_language_what_is_wrong_what_to_do_and_what_is_over(
    locale: str,
    words: tuple[str, ...],
    sink: tuple[Sink, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept, port = sink
    watch = watching([BROKEN, BROKEN, WELL], tmp_path, monkeypatch, port, locale)
    for _ in range(3):
        watch.once()
    wrong, over = kept.mails
    said = f"{wrong['Subject']}\n{wrong.get_content()}"
    assert all(word in said for word in words[:3])
    assert "no answer within 3 s" in said
    assert re.search(r" \d\d:\d\d-03:00\)", said), "with its zone"
    assert "`malote restart broker`" in said
    assert words[3] in over.get_content()
    assert (wrong["To"], wrong["From"]) == ("ana@example.com, bo@example.com", "Café <shop@example.com>")
    assert capsys.readouterr().out.count("told the operators") == 2


def test_a_mail_server_that_is_gone_for_long_is_one_line_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = watching([BROKEN] * 50, tmp_path, monkeypatch, free_port(), "en")
    for _ in range(50):
        watch.once()
    assert capsys.readouterr().out.count("\n") == 1


def test_each_time_when_nothing_can_be_seen_is_one_line_in_the_log_and_a_mail_server_that_is_gone_stays_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks: list[Any] = [BROKEN, None, None, BROKEN, None, BROKEN]
    watch = watching(looks, tmp_path, monkeypatch, free_port(), "en")

    def slept(seconds: float) -> None:
        assert seconds == LOOK_EVERY
        if not looks:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", slept)
    with pytest.raises(KeyboardInterrupt):
        watch.forever()
    said = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]
    assert said == ["no mail to the operators", "cannot look", "cannot look"]


def test_what_was_told_is_known_after_a_restart(
    sink: tuple[Sink, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, port = sink
    watching([BROKEN], tmp_path, monkeypatch, port, "en").once()
    watching([BROKEN], tmp_path, monkeypatch, port, "en").once()
    assert len(kept.mails) == 1
