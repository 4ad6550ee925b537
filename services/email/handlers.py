"""What email does: write a mail for each event that somebody must know of, and send the mails."""

from typing import Any

import structlog
from uuid_utils.compat import uuid7

from contracts.base import Message
from contracts.email import DeliverMail, MailDigest, MailReport, MailResendRefused, MailsResent, ResendMails
from contracts.orders import OrderCancelled, OrderConfirmed, OrderPlaced, OrderRejected
from contracts.stock import StockLow
from services.email import domain, store
from services.email.adapters import CONNECTIONS, Mailer, Refused
from services.email.settings import EmailSettings
from services.email.store import Mail, MailStatus, load_mails
from services.email.templates import Kind, render
from shared.messaging.handler import Poison, on
from shared.messaging.unit import OutsideWork, UnitOfWork
from shared.persistence.clock import now

log = structlog.get_logger(__name__)


@on(OrderPlaced)
async def on_order_placed(order: OrderPlaced, unit: UnitOfWork, settings: EmailSettings) -> DeliverMail:
    """Tell the customer by mail that the order has arrived."""
    return _write_to_customer("placed", order, unit, settings)


@on(OrderConfirmed)
async def on_order_confirmed(order: OrderConfirmed, unit: UnitOfWork, settings: EmailSettings) -> DeliverMail:
    """Tell the customer by mail that the order will be delivered."""
    return _write_to_customer("confirmed", order, unit, settings)


@on(OrderRejected)
async def on_order_rejected(order: OrderRejected, unit: UnitOfWork, settings: EmailSettings) -> DeliverMail:
    """Write the customer why the order is rejected, and how many pieces are available."""
    return _write_to_customer("rejected", order, unit, settings)


@on(OrderCancelled)
async def on_order_cancelled(order: OrderCancelled, unit: UnitOfWork, settings: EmailSettings) -> DeliverMail:
    """Tell the customer by mail that the order is cancelled."""
    return _write_to_customer("cancelled", order, unit, settings)


@on(StockLow)
async def on_stock_low(stock: StockLow, unit: UnitOfWork, settings: EmailSettings) -> list[DeliverMail]:
    """Write each operator that a product runs low."""
    return _write_to_operators("low_stock", unit, settings, stock=stock)


@on(MailDigest)
async def on_mail_digest(digest: MailDigest, unit: UnitOfWork, settings: EmailSettings) -> list[DeliverMail]:
    """Write each operator that messages were dead-lettered."""
    return _write_to_operators("dead_letters", unit, settings, digest=digest)


@on(MailReport)
async def on_mail_report(report: MailReport, unit: UnitOfWork, settings: EmailSettings) -> DeliverMail:
    """Write the person who asked for a report where to download it, or why it failed."""
    kind: Kind = "report_failed" if report.reason else "report_ready"
    return _write(unit, settings, kind, report.recipient, report.locale, report=report)


@on(DeliverMail, loads=load_mails, concurrency=CONNECTIONS)
async def on_deliver_mail(command: DeliverMail, work: OutsideWork, mailer: Mailer) -> None:
    """Send a mail once, and store the answer of the server. A temporary error is raised, so that the lane retries."""
    mail = work.get(Mail, command.mail_id)
    if mail is None:
        raise Poison(f"there is no mail {command.mail_id}")
    if mail.status != MailStatus.PENDING:
        return
    about = {"kind": mail.kind, "to": mail.recipient.rpartition("@")[2]}
    try:
        mail.smtp_answer = await mailer.deliver(mail, work.demand_ours)
    except Refused as refused:
        mail.status, mail.smtp_answer = MailStatus.FAILED, str(refused)
        log.warning("mail refused", **about, answer=mail.smtp_answer)
        return
    mail.status, mail.sent_at = MailStatus.SENT, now()
    log.info("mail sent", **about)


@on(ResendMails)
async def on_resend_mails(command: ResendMails, unit: UnitOfWork) -> list[Message]:
    """Send failed mails again, in batches. A mail that is being sent again is not selected by another command."""
    mails = await store.failed(unit.session, command)
    for mail in mails:
        mail.status, mail.smtp_answer = MailStatus.PENDING, None
    said: list[Message] = [DeliverMail(mail_id=mail.id) for mail in mails]
    resent = command.resent + len(mails)
    if len(mails) == store.RESENT_AT_ONCE:
        return [*said, command.model_copy(update={"after": mails[-1].id, "resent": resent})]
    return [*said, MailsResent(resent=resent) if resent else MailResendRefused(reason="none_failed")]


def _write_to_customer(
    kind: Kind,
    order: OrderPlaced | OrderConfirmed | OrderRejected | OrderCancelled,
    unit: UnitOfWork,
    settings: EmailSettings,
) -> DeliverMail:
    customer = order.customer
    about: Any = {"order_id": order.order_id, "owner": customer.id, "order": order}
    return _write(unit, settings, kind, customer.email, customer.locale, **about)


def _write_to_operators(kind: Kind, unit: UnitOfWork, settings: EmailSettings, **about: Any) -> list[DeliverMail]:
    """One mail for each operator, so that a bad address does not stop the others."""
    return [
        _write(unit, settings, kind, recipient, settings.operators_locale, copy=copy, **about)
        for copy, recipient in enumerate(settings.operators, start=1)
    ]


def _write(
    unit: UnitOfWork,
    settings: EmailSettings,
    kind: Kind,
    recipient: str,
    locale: str,
    *,
    copy: int = 1,
    order_id: Any = None,
    owner: str | None = None,
    **about: Any,
) -> DeliverMail:
    assert unit.cause, "mails are caused by messages"
    content = render(kind, locale, shop=settings.shop, timezone=settings.timezone, **about)
    mail = Mail(
        id=uuid7(),
        kind=kind,
        recipient=recipient,
        locale=locale,
        subject=content.subject,
        text=content.text,
        html=content.html,
        message_id=domain.mail_id(unit.cause.message_id, settings.domain, copy),
        order_id=order_id,
        correlation_id=unit.job_id,
        owner=owner,
        created_at=now(),
    )
    unit.add(mail)
    return DeliverMail(mail_id=mail.id)
