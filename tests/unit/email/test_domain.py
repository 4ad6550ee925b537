"""Names for mails, and what answers mean."""

import re

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


@pytest.mark.parametrize("name", ["Ana Souza", "João d'Ávila", "Dr. Ana", "Ana-Lúcia", "李雷"])
def test_a_customer_is_greeted_by_name(name: str) -> None:
    assert domain.greeted(name) == name


@pytest.mark.parametrize("name", ["Win now https://evil.example", "evil.example", "mail me@evil.example", "a//b"])
def test_a_name_that_would_become_a_link_is_not_repeated(name: str) -> None:
    assert domain.greeted(name) == ""


@pytest.mark.parametrize(("currency", "digits"), [("BRL", 2), ("JPY", 0), ("KWD", 3), ("CLF", 4), ("AFN", 2)])
def test_minor_units_are_those_of_iso_4217(currency: str, digits: int) -> None:
    assert minor_digits(currency) == digits


def test_only_a_5xx_is_final() -> None:
    assert [code for code in (-1, 250, 354, 421, 451, 500, 550, 599) if domain.is_final(code)] == [500, 550, 599]


def test_an_answer_is_one_line_that_any_database_stores() -> None:
    assert domain.answer(250, "2.0.0 Ok\nqueued as\t4F") == "250 2.0.0 Ok queued as 4F"
    assert domain.answer(550, "no\x00\udcff" + "x" * 600)[:8] == "550 no\ufffd\ufffd"
    assert len(domain.answer(550, "x" * 600)) == domain.ANSWER_LENGTH
