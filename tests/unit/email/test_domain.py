"""Names for mails, and what answers mean."""

import re
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.base import minor_digits
from services.email import domain

DOT_ATOM = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")  # RFC 5322, 3.2.3, without its odder characters


def test_a_mail_is_named_after_the_message_that_caused_it() -> None:
    assert domain.mail_id("0193a5b2-7c1e", "shop.example") == "<0193a5b2-7c1e@shop.example>"
    assert domain.mail_id("0193a5b2-7c1e", "shop.example", copy=2) == "<0193a5b2-7c1e.2@shop.example>"


@settings(deadline=None)  # a busy machine is no failure
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=255))
def test_any_message_id_makes_a_message_id_that_is_fit_for_a_header(message_id: str) -> None:
    made = domain.mail_id(message_id, "shop.example")
    assert made == domain.mail_id(message_id, "shop.example")
    assert DOT_ATOM.fullmatch(made.removeprefix("<").removesuffix("@shop.example>"))
    assert len(made) <= 160


@pytest.mark.parametrize(
    "name",
    [
        "Ana Souza", "João d'Ávila", "Dr. Ana", "Ana-Lúcia", "李雷", "J.R.R. Tolkien", "Silva & Filhos", "O\u2019Neill",
        "Maria Aparecida dos Santos de Oliveira e Silva", "Café 24 Horas Ltda.", "जॉन डो", "ジョン・スミス",
    ],
)  # fmt: skip
def test_a_customer_is_greeted_by_name(name: str) -> None:
    assert domain.greeted(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "Win now https://evil.example", "evil.example", "mail me@evil.example", "a//b", "t.co", "a.b.co",
        "evil\uff0eexample", "evil\u3002example", "evil\uff61example", "evil\u2024example", "evil\ufe52example",
        "me\uff20evil", "Ligue 11 99999 0000", "0800\u2460\u2461", "Buy now!", "R$ 100 para sempre", "\U0001f381 Prize",
        "You have won a new phone", "Ana\u2028Souza", "Ana\u202eSouza", "Ana\x85Souza", "A" * 61,
    ],
)  # fmt: skip
def test_a_name_that_looks_like_a_message_or_an_address_is_not_repeated(name: str) -> None:
    assert domain.greeted(name) == ""


@pytest.mark.parametrize(("currency", "digits"), [("BRL", 2), ("JPY", 0), ("KWD", 3), ("CLF", 4), ("AFN", 2)])
def test_minor_units_are_those_of_iso_4217(currency: str, digits: int) -> None:
    assert minor_digits(currency) == digits


@pytest.mark.parametrize("stage", get_args(domain.Stage))
def test_what_is_no_5xx_may_pass_later(stage: domain.Stage) -> None:
    assert not any(domain.is_final(code, "", stage) for code in (-1, 250, 354, 421, 450, 451, 452, 454, 600))


@pytest.mark.parametrize("stage", ["RCPT", "DATA"])
@pytest.mark.parametrize(
    ("code", "said"),
    [
        (550, "5.1.1 nobody of that name"),
        (550, "no such user"),
        (552, "5.2.2 mailbox full"),
        (552, "5.3.4 too large"),
        (550, "5.5.0 Requested action not taken: mailbox unavailable"),
        (554, "5.7.13 account disabled"),
        (556, "5.1.10 the domain takes no mail"),
        (501, "5.1.3 bad address"),
    ],
)
def test_what_is_about_the_mail_is_final(stage: domain.Stage, code: int, said: str) -> None:
    assert domain.is_final(code, said, stage)


@pytest.mark.parametrize("stage", get_args(domain.Stage))
@pytest.mark.parametrize(
    ("code", "said"),
    [
        (500, "what?"),
        (503, "5.5.1 need MAIL first"),
        (554, "5.5.1 no valid recipients"),
        (521, "takes no mail"),
        (530, "5.7.0 authentication required"),
        (530, "5.5.1 Authentication Required"),
        (530, "Must issue a STARTTLS command first"),
        (534, "5.7.9 mechanism too weak"),
        (535, "5.7.8 bad credentials"),
        (538, "5.7.11 encryption required"),
        (550, "5.4.5 daily quota exceeded"),
        (550, "5.7.26 unauthenticated mail is prohibited"),
        (554, "5.3.2 not accepting mail"),
    ],
)
def test_what_is_about_us_or_the_server_is_tried_again(stage: domain.Stage, code: int, said: str) -> None:
    assert not domain.is_final(code, said, stage)


def test_a_refused_sender_says_nothing_of_the_mail() -> None:
    assert not domain.is_final(553, "5.7.1 sender not owned by user", "MAIL")


def test_a_relay_that_does_not_know_us_is_no_refusal_of_the_mail_and_a_refused_text_is() -> None:
    assert not domain.is_final(554, "5.7.1 Relay access denied", "RCPT")
    assert domain.is_final(550, "5.7.1 message refused as spam", "DATA")


def test_an_answer_is_one_line_that_any_database_stores() -> None:
    assert domain.answer(250, "2.0.0 Ok\nqueued as\t4F") == "250 2.0.0 Ok queued as 4F"
    assert domain.answer(550, "no\x00\udcff" + "x" * 600)[:8] == "550 no\ufffd\ufffd"
    assert len(domain.answer(550, "x" * 600)) == domain.ANSWER_LENGTH
