"""The mail to operators about faults. It is sent without broker, database and email service."""

import smtplib
import socket
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime, make_msgid
from zoneinfo import ZoneInfo

from contracts.base import Locale
from deploy.local.advice import advice
from deploy.local.clock import zoned
from deploy.local.troubles import Digest, Trouble
from services.email.settings import EmailSettings

_LONGEST_DETAIL = 500
_SMTP_SECONDS = 15.0
_WORDS: dict[Locale, dict[str, str]] = {
    "en": {
        "wrong": "Malote at {host}: something is wrong ({names})",
        "well": "Malote at {host}: over ({names})",
        "begun": "What is wrong:",
        "over": "What is over:",
        "since": "since {clock}",
        "lasted": "lasted {minutes} min, from {clock}",
        "seen": "Seen: ",
        "next": "What to do: ",
        "foot": "`malote doctor` shows how it is now. This is told once, and once more when it is over.",
    },
    "pt-BR": {
        "wrong": "Malote em {host}: algo está errado ({names})",
        "well": "Malote em {host}: resolvido ({names})",
        "begun": "O que está errado:",
        "over": "O que foi resolvido:",
        "since": "desde {clock}",
        "lasted": "durou {minutes} min, desde {clock}",
        "seen": "Visto: ",
        "next": "O que fazer: ",
        "foot": "`malote doctor` mostra como está agora. Isto é avisado uma vez, e mais uma vez quando for resolvido.",
    },
}


def written(digest: Digest, settings: EmailSettings, now: float) -> EmailMessage:
    """The mail of a digest, in the operators' language."""
    locale, zone = settings.operators_locale, ZoneInfo(settings.timezone)
    words = _WORDS[locale]
    parts: list[str] = []
    if digest.begun:
        parts.append(words["begun"])
        parts += [_begun(trouble, locale, zone) for trouble in digest.begun]
    if digest.over:
        parts.append(words["over"])
        parts += [_over(trouble, locale, zone, now) for trouble in digest.over]
    names = ", ".join(dict.fromkeys(trouble.finding.what for trouble in digest.begun or digest.over))
    mail = EmailMessage(policy=SMTP_POLICY)
    mail["From"], mail["To"] = settings.sender, ", ".join(settings.operators)
    mail["Subject"] = words["wrong" if digest.begun else "well"].format(host=socket.gethostname(), names=names)
    mail["Date"] = format_datetime(datetime.now(UTC))
    mail["Message-ID"] = make_msgid(domain=settings.domain)
    mail["Auto-Submitted"] = "auto-generated"
    mail["Content-Language"] = locale
    mail.set_content("\n\n".join([*parts, words["foot"]]) + "\n")
    return mail


def _begun(trouble: Trouble, locale: Locale, zone: ZoneInfo) -> str:
    finding, words = trouble.finding, _WORDS[locale]
    means, following = advice(finding.kind, finding.what, locale)
    since = words["since"].format(clock=_clock(trouble.at, zone))
    seen = f"\n  {words['seen']}{finding.detail[:_LONGEST_DETAIL]}" if finding.detail else ""
    return f"* {finding.what}: {means} ({since}).{seen}\n  {words['next']}{following}"


def _over(trouble: Trouble, locale: Locale, zone: ZoneInfo, now: float) -> str:
    means, _ = advice(trouble.finding.kind, trouble.finding.what, locale)
    minutes = max(1, round(trouble.lasted(now) / 60))
    lasted = _WORDS[locale]["lasted"].format(minutes=minutes, clock=_clock(trouble.at, zone))
    return f"* {trouble.finding.what}: {means} ({lasted})."


def _clock(at: datetime, zone: ZoneInfo) -> str:
    return zoned(at.astimezone(zone), "%Y-%m-%d %H:%M")


def send(mail: EmailMessage, settings: EmailSettings) -> None:
    """Send a mail to the email service's SMTP server. Raises OSError or SMTPException."""
    seconds = min(settings.smtp_timeout, _SMTP_SECONDS)
    where = (settings.smtp_host, settings.smtp_port, settings.domain)
    if settings.smtp_tls == "tls":
        client: smtplib.SMTP = smtplib.SMTP_SSL(*where, timeout=seconds, context=settings.tls.context)
    else:
        client = smtplib.SMTP(*where, timeout=seconds)
    with client:
        if settings.smtp_tls == "starttls":
            client.starttls(context=settings.tls.context)
        if settings.smtp_username and settings.smtp_password:
            client.login(settings.smtp_username, settings.smtp_password.get_secret_value())
        client.send_message(mail, settings.sender_address, list(settings.operators))
