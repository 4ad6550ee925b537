"""What mails say, in both languages."""

from html import escape
from typing import Any, get_args

import pytest

from contracts.base import Locale, Message
from contracts.orders import RejectedLine
from contracts.reports import ReportKind
from services.email.templates import REPORTS, Content, Kind, render
from tests.unit.email import news

ALL: dict[Kind, Message] = {
    "placed": news.placed(),
    "confirmed": news.confirmed(),
    "cancelled": news.cancelled(),
    "rejected": news.rejected("out_of_stock", RejectedLine(sku="MUG-RARE", quantity=5, available=3)),
    "low_stock": news.low(),
    "dead_letters": news.digest(more_groups=2),
    "report_ready": news.report(),
    "report_failed": news.report(reason="too_many_rows"),
}
ABOUT = {"low_stock": "stock", "dead_letters": "digest", "report_ready": "report", "report_failed": "report"}
EVERY = [(kind, locale) for kind in get_args(Kind) for locale in get_args(Locale)]


def written(kind: Kind, locale: str, message: Message | None = None) -> Content:
    about = {ABOUT.get(kind, "order"): message or ALL[kind]}
    return render(kind, locale, shop="Café do João", timezone="America/Sao_Paulo", **about)


def flat(text: str) -> str:
    """With ordinary blanks, as people compare."""
    return " ".join(text.split())


@pytest.mark.parametrize(("kind", "locale"), EVERY)
def test_every_mail_has_a_subject_a_text_and_a_page_without_leftovers(kind: Kind, locale: str) -> None:
    content = written(kind, locale)
    assert content.subject
    for part in (content.subject, content.text, content.html):
        assert not any(mark in part for mark in ("{{", "{%", "[[", "[%", "None", "&amp;amp;"))
    assert content.subject not in content.text
    assert "Café do João" in content.text
    assert "\n\n\n" not in content.text


@pytest.mark.parametrize(("kind", "locale"), EVERY)
def test_every_page_carries_its_style_itself_and_loads_nothing(kind: Kind, locale: str) -> None:
    html = written(kind, locale).html
    assert f'lang="{locale}"' in html
    assert "prefers-color-scheme: dark" in html
    assert "max-width: 480px" in html
    assert '<h1 style="' in html
    html = html.replace(escape(news.LINK), "")  # leads somewhere, and loads nothing
    assert not any(mark in html for mark in ("<img", "<link", "<script", "http:", "https:", "url("))


@pytest.mark.parametrize(("kind", "locale"), EVERY)
def test_rows_of_a_loop_stay_in_one_table_body(kind: Kind, locale: str) -> None:
    html = written(kind, locale).html
    assert html.count("<tbody>") == html.count("</tbody>") == html.count("<table")


def test_money_numbers_and_times_are_written_as_the_locale_has_them() -> None:
    portuguese, english = written("placed", "pt-BR"), written("placed", "en")
    assert "1.250 \N{MULTIPLICATION SIGN} R$ 69,90 = R$ 87.375,00" in flat(portuguese.text)
    assert "1,250 \N{MULTIPLICATION SIGN} R$69.90 = R$87,375.00" in flat(english.text)
    assert "21 de novembro de 2026 às 22:30" in flat(portuguese.text)
    assert "November 21, 2026 at 10:30 PM" in flat(english.text)


@pytest.mark.parametrize(
    ("currency", "expected"),
    [("JPY", "Total: JP¥ 125.000"), ("KWD", "Total: KWD 125,000"), ("AFN", "Total: AFN 1.250,00")],
)
def test_minor_units_are_not_always_hundredths(currency: str, expected: str) -> None:
    content = written("confirmed", "pt-BR", news.confirmed(price=news.money(100, currency)))
    assert expected in flat(content.text)


@pytest.mark.parametrize(
    ("locale", "reason", "available", "expected"),
    [
        ("pt-BR", "out_of_stock", 3, "você pediu 5; restam 3"),
        ("pt-BR", "out_of_stock", 1, "você pediu 5; resta 1"),
        ("pt-BR", "out_of_stock", 0, "você pediu 5; esgotado"),
        ("pt-BR", "unknown_sku", None, "você pediu 5; não vendemos"),
        ("pt-BR", "currency_mismatch", None, "você pediu 5; outra moeda"),
        ("en", "out_of_stock", 3, "you asked for 5; 3 left"),
        ("en", "out_of_stock", 0, "you asked for 5; sold out"),
        ("en", "unknown_sku", None, "you asked for 5; not sold here"),
        ("en", "currency_mismatch", None, "you asked for 5; other currency"),
    ],
)
def test_a_rejection_says_why_and_what_is_left(locale: Any, reason: Any, available: Any, expected: str) -> None:
    line = RejectedLine(sku="MUG-RARE", quantity=5, available=available)
    content = written("rejected", locale, news.rejected(reason, line))
    unknown = {"en": "A product we do not know", "pt-BR": "Produto desconhecido"}[locale]
    assert f"{unknown if reason == 'unknown_sku' else 'MUG-RARE'}: {expected}" in content.text
    assert expected.partition("; ")[2].lower() in content.html.lower()


@pytest.mark.parametrize("locale", get_args(Locale))
def test_each_reason_is_explained_in_its_own_words(locale: str) -> None:
    reasons: tuple[Any, ...] = ("out_of_stock", "unknown_sku", "currency_mismatch")
    texts = {written("rejected", locale, news.rejected(reason)).text for reason in reasons}
    assert len(texts) == 3


def test_what_people_typed_is_never_markup() -> None:
    who = news.customer(name='<b onload="x">Ana</b>'.replace("/", ""))
    content = written("placed", "en", news.placed(name="<i>{{ 7*7 }}</i> & more", who=who))
    assert "<i>" not in content.html
    assert "<b onload" not in content.html
    assert "&lt;i&gt;{{ 7*7 }}&lt;/i&gt; &amp; more" in content.html
    assert "<i>{{ 7*7 }}</i> & more" in content.text


def test_a_name_that_would_be_a_link_is_left_out() -> None:
    content = written("placed", "en", news.placed(who=news.customer(name="Win at evil.example")))
    assert "evil" not in content.text + content.html
    assert "Hello," in content.text


@pytest.mark.parametrize("locale", get_args(Locale))
def test_the_code_of_a_product_that_is_not_ours_is_not_repeated(locale: str) -> None:
    line = RejectedLine(sku="BUY-NOW.EVIL.EXAMPLE", quantity=5, available=None)
    content = written("rejected", locale, news.rejected("unknown_sku", line))
    assert "EVIL" not in content.subject + content.text + content.html


def test_no_name_can_break_a_subject_line() -> None:
    content = written("low_stock", "en", news.low(name="Mug\u2028Bcc: x@evil.example\x85=?utf-8?q?=0aX:_y?="))
    assert len(content.subject.splitlines()) == 1
    assert "=?" not in content.subject


def test_operators_are_told_what_was_given_up_and_how_to_look_and_to_send_it_again() -> None:
    portuguese, english = written("dead_letters", "pt-BR"), written("dead_letters", "en")
    assert (portuguese.subject, english.subject) == ("3 mensagens falharam", "3 messages were given up")
    assert written("dead_letters", "en", news.digest(new=1)).subject == "A message was given up"
    assert "3 messages have come to the dead letters since 10:30 PM on November 21, 2026 (UTC-03:00)" in flat(
        english.text
    )
    assert "desde 22:30 de 21 de novembro de 2026 (UTC-03:00); 1.250 esperam lá agora" in flat(portuguese.text)
    for content in (portuguese, english):
        assert "3 \N{MULTIPLICATION SIGN} order.placed.v1 @ stock [0f1e2d3c4b5a]" in flat(content.text)
        for command in ("malote dlq list --group 0f1e2d3c4b5a", "malote dlq replay --group 0f1e2d3c4b5a"):
            assert command in content.text
            assert command in content.html
        assert "RuntimeError: no price for &lt;n&gt;" in content.html


def test_a_report_that_is_ready_says_how_large_it_is_and_until_when_the_link_is_good() -> None:
    portuguese, english = written("report_ready", "pt-BR"), written("report_ready", "en")
    assert portuguese.subject == "Seu relatório está pronto: pedidos"
    assert english.subject == "Your report is ready: orders"
    for word in ("Linhas: 1.250", "Tamanho: 1,2 MB", "até 21 de novembro de 2026 às 22:30", news.LINK):
        assert word in flat(portuguese.text)
    for word in ("Rows: 1,250", "Size: 1.2 MB", "until November 21, 2026 at 10:30 PM", news.LINK):
        assert word in flat(english.text)
    assert f'href="{escape(news.LINK)}"' in english.html


@pytest.mark.parametrize("locale", get_args(Locale))
def test_a_report_whose_link_was_revoked_is_told_of_without_one(locale: str) -> None:
    content = written("report_ready", locale, news.report(link=None))
    assert "https:" not in content.text + content.html
    assert "2026" in content.text


@pytest.mark.parametrize("locale", get_args(Locale))
def test_a_report_that_failed_says_why_in_the_readers_own_words(locale: str) -> None:
    reasons = ("too_many_rows", "storage_limit", "read_model_rebuilt", "export_failed")
    texts = {written("report_failed", locale, news.report(reason=r, detail="No such file")).text for r in reasons}
    assert len(texts) == len(reasons)
    assert not any("No such file" in text for text in texts)


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (15_250_000_000, "15,2 GB"), (10**13, "10.000 GB")],
)
def test_a_size_is_written_as_people_read_it(size: int, expected: str) -> None:
    assert f"Tamanho: {expected}" in flat(written("report_ready", "pt-BR", news.report(bytes=size)).text)


@pytest.mark.parametrize("locale", get_args(Locale))
def test_every_kind_of_report_has_a_name_in_every_language(locale: str) -> None:
    assert set(REPORTS[locale]) == set(get_args(ReportKind))
