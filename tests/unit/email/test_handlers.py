"""What email writes and sends, without a broker or an SMTP server."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from uuid_utils.compat import uuid7

from contracts.email import DeliverMail, MailResendRefused, MailsResent, ResendMails
from services.email import handlers, store
from services.email.adapters import Mailer, NotSent, Refused
from services.email.settings import EmailSettings
from services.email.store import Mail, MailStatus
from shared.messaging.handler import Poison
from shared.testing import Harness
from tests.unit.email import news
from tests.unit.email.test_adapters import a_mail

SETTINGS = EmailSettings(_env_file=None, operators="ops@example.com,boss@example.com")


async def test_news_of_an_order_is_written_down_and_then_delivered() -> None:
    async with Harness(handlers, Mail, resources=[SETTINGS]) as email:
        said = await email.when(
            news.placed(), news.confirmed(), news.cancelled(), news.rejected("out_of_stock"), job="j"
        )
        mails = await email.rows(Mail)
        assert {mail.kind for mail in mails} == {"placed", "confirmed", "cancelled", "rejected"}
        assert {mail.order_id for mail in mails} == {news.ORDER_ID}
        assert {(mail.recipient, mail.locale) for mail in mails} == {("ana@example.com", "pt-BR")}
        assert {(mail.status, mail.correlation_id) for mail in mails} == {(MailStatus.PENDING, "j")}
        assert {message.mail_id for message in said if isinstance(message, DeliverMail)} == {mail.id for mail in mails}
        assert len({mail.message_id for mail in mails}) == 4


async def test_a_customer_reads_its_own_language() -> None:
    async with Harness(handlers, Mail, resources=[SETTINGS]) as email:
        await email.when(news.placed(who=news.customer(locale="en")))
        assert (await email.rows(Mail))[0].subject == "We have your order 4F2A91BC"


async def test_each_operator_is_told_of_low_stock_in_a_mail_of_its_own() -> None:
    async with Harness(handlers, Mail, resources=[SETTINGS]) as email:
        assert len(await email.when(news.low())) == 2
        first, second = sorted(await email.rows(Mail), key=lambda mail: mail.id)
        assert (first.recipient, second.recipient) == ("ops@example.com", "boss@example.com")
        assert first.message_id != second.message_id
        assert first.order_id is None


async def test_each_operator_is_told_of_dead_letters_under_the_job_of_the_digest() -> None:
    async with Harness(handlers, Mail, resources=[SETTINGS]) as email:
        assert len(await email.when(news.digest(), job="the-digest")) == 2
        mails = await email.rows(Mail)
        assert {mail.recipient for mail in mails} == {"ops@example.com", "boss@example.com"}
        assert {mail.correlation_id for mail in mails} == {"the-digest"}


async def test_whoever_asked_for_a_report_is_told_how_it_ended() -> None:
    async with Harness(handlers, Mail, resources=[SETTINGS]) as email:
        ready, failed = news.report(locale="en"), news.report(reason="too_many_rows", recipient="bia@example.com")
        said = await email.when(ready, failed, job="j")
        first, second = sorted(await email.rows(Mail), key=lambda mail: mail.id)
        assert [(mail.kind, mail.recipient, mail.locale) for mail in (first, second)] == [
            ("report_ready", "ana@example.com", "en"),
            ("report_failed", "bia@example.com", "pt-BR"),
        ]
        assert said == [DeliverMail(mail_id=first.id), DeliverMail(mail_id=second.id)]
        assert {mail.correlation_id for mail in (first, second)} == {"j"}
        assert first.message_id != second.message_id


async def test_a_mail_that_the_server_takes_is_sent_and_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    async def deliver(_: Mailer, mail: Mail, demand_ours: Any) -> str:
        taken.append(mail.id)
        return "250 OK"

    monkeypatch.setattr(Mailer, "deliver", deliver)
    async with Harness(handlers, Mail, resources=[SETTINGS]) as email:
        mail = a_mail()
        await email.given(mail)
        for _ in range(2):
            assert await email.when(DeliverMail(mail_id=mail.id)) == []
        now = await email.row(Mail, mail.id)
        assert (now.status, now.smtp_answer) == (MailStatus.SENT, "250 OK")
        assert now.sent_at
    assert len(taken) == 1


async def test_a_refused_mail_has_failed_and_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    async def deliver(_: Mailer, mail: Mail, demand_ours: Any) -> str:
        tries.append(mail.id)
        raise Refused("550 no such user")

    monkeypatch.setattr(Mailer, "deliver", deliver)
    async with Harness(handlers, Mail, resources=[SETTINGS]) as email:
        mail = a_mail()
        await email.given(mail)
        for _ in range(2):
            await email.when(DeliverMail(mail_id=mail.id))
        now = await email.row(Mail, mail.id)
        assert (now.status, now.smtp_answer, now.sent_at) == (MailStatus.FAILED, "550 no such user", None)
    assert len(tries) == 1


async def test_what_may_pass_later_is_raised_for_the_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    async def deliver(_: Mailer, mail: Mail, demand_ours: Any) -> str:
        raise NotSent("451 later")

    monkeypatch.setattr(Mailer, "deliver", deliver)
    async with Harness(handlers, Mail, resources=[SETTINGS]) as email:
        mail = a_mail()
        await email.given(mail)
        with pytest.raises(NotSent):
            await email.when(DeliverMail(mail_id=mail.id))
        assert (await email.row(Mail, mail.id)).status == MailStatus.PENDING


async def test_a_failed_mail_is_sent_again_and_no_other_is() -> None:
    async with Harness(handlers, Mail, resources=[SETTINGS]) as email:
        failed, sent = a_mail(), a_mail()
        failed.status, failed.smtp_answer, sent.status = MailStatus.FAILED, "550 no", MailStatus.SENT
        await email.given(failed, sent)
        wish = ResendMails(ids=(failed.id, sent.id), by="olga")
        assert await email.when(wish) == [DeliverMail(mail_id=failed.id), MailsResent(resent=1)]
        now = await email.row(Mail, failed.id)
        assert (now.status, now.smtp_answer) == (MailStatus.PENDING, None)
        assert await email.when(wish) == [MailResendRefused(reason="none_failed")]


async def test_many_failed_mails_are_sent_again_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "RESENT_AT_ONCE", 2)
    async with Harness(handlers, Mail, resources=[SETTINGS]) as email:
        began = datetime.now(UTC) - timedelta(seconds=1)
        mails = [a_mail() for _ in range(4)]
        for mail in mails:
            mail.status = MailStatus.FAILED
        await email.given(*mails)
        said: list[Any] = [ResendMails(failed_since=began, by="olga")]
        delivered: list[Any] = []
        while isinstance(said[-1], ResendMails):
            said = await email.when(said[-1])
            delivered += [message.mail_id for message in said if isinstance(message, DeliverMail)]
        assert delivered == [mail.id for mail in mails]
        assert said[-1] == MailsResent(resent=4)
        later = ResendMails(failed_since=datetime.now(UTC) + timedelta(minutes=1), by="olga")
        assert await email.when(later) == [MailResendRefused(reason="none_failed")]


async def test_a_mail_that_does_not_exist_is_nothing_to_retry() -> None:
    async with Harness(handlers, Mail, resources=[SETTINGS]) as email:
        with pytest.raises(Poison):
            await email.when(DeliverMail(mail_id=uuid7()))
