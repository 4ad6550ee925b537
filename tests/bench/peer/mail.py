"""The peer's mails: the same templates, over an SMTP connection that each thread keeps."""

import contextlib
import os
import smtplib
import threading
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.utils import make_msgid

from contracts.orders import OrderConfirmed, OrderPlaced
from services.email.templates import Kind, render

SENDER = "no-reply@malote.example"
_kept = threading.local()


def send(order: OrderPlaced | OrderConfirmed) -> None:
    """Raises `smtplib.SMTPException` or OSError; the task is then tried again."""
    kind: Kind = "confirmed" if isinstance(order, OrderConfirmed) else "placed"
    customer = order.customer
    content = render(kind, customer.locale, shop="Malote", timezone="America/Sao_Paulo", order=order)
    message = MIMEMultipart("alternative")  # a third of what `EmailMessage` costs
    message["From"], message["To"], message["Subject"] = SENDER, customer.email, content.subject
    message["Message-ID"] = make_msgid(domain="malote.example")
    message.attach(MIMEText(content.text))
    message.attach(MIMEText(content.html, "html"))
    try:
        _connection().sendmail(SENDER, [customer.email], message.as_bytes())
    except BaseException:
        with contextlib.suppress(Exception):
            _kept.smtp.close()
        _kept.smtp = None
        raise


def _connection() -> smtplib.SMTP:
    if getattr(_kept, "smtp", None) is None:
        host, port = os.environ["PEER_SMTP_HOST"], int(os.environ["PEER_SMTP_PORT"])
        _kept.smtp = smtplib.SMTP(host, port, local_hostname="malote.example", timeout=30)
    smtp: smtplib.SMTP = _kept.smtp
    return smtp
