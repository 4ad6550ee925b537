"""malote mail: the local mailbox (the Maildir `.data/mail`), the mails of the email service, and sending failed mails
again."""

import heapq
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.parser import BytesHeaderParser
from email.policy import default
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import typer

from deploy.cli.errors import Failed
from deploy.cli.output import (
    Json,
    Limit,
    Wait,
    at,
    console,
    end_of_job,
    hint_at_more,
    plain,
    print_json,
    table,
    visible,
)

app = typer.Typer(no_args_is_help=True)
_SHORT = 12


@app.command("list")
def list_(
    to: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Only mails to this address.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """The newest mails in the local mailbox."""
    found = newest(_mailbox(), limit, to)
    if as_json:
        print_json({"data": found})
        return
    rows = [(short(m["id"]), at(m["date"]), plain(m["to"]), plain(m["subject"])) for m in found]
    console().print(table(("id", "date", "to~", "subject~"), rows) if found else "no mails")


@app.command()
def show(
    mail_id: Annotated[str, typer.Argument(metavar="[ID]", help="From `mail list`, or a whole Message-ID.")] = "",
    as_json: Json = False,
) -> None:
    """One mail as text; the newest one without an ID."""
    path = find(_mailbox(), mail_id)
    mail = message_from_bytes(path.read_bytes(), policy=default)
    assert isinstance(mail, EmailMessage)
    about = summary(path, mail)
    text = _part(mail, "plain")
    if as_json:
        print_json(about | {"text": text, "html": _part(mail, "html")})
    else:
        heads = "\n".join(f"{name}: {mail[name]}" for name in ("From", "To", "Subject", "Date", "Message-ID"))
        typer.echo(visible(f"{heads}\n\n{text}"))


@app.command()
def written(
    status: Annotated[Literal["PENDING", "SENT", "FAILED"] | None, typer.Option(help="Only in this status.")] = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """The newest mails that email wrote, sent or not, and what the server said."""
    from deploy.cli.client.gateway import ask

    page = ask(lambda gateway: gateway.mails(limit, status))
    if as_json:
        print_json(page)
        return
    rows = [(m["id"], at(m["created_at"]), m["status"], m["kind"], plain(m["smtp_answer"] or "")) for m in page["data"]]
    console().print(table(("mail", "written", "status", "kind", "answer~"), rows) if rows else "no mails")
    hint_at_more(page, limit)


@app.command()
def resend(
    ids: Annotated[list[UUID] | None, typer.Argument(metavar="[ID]...", show_default=False)] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All that failed.")] = False,
    since: Annotated[str, typer.Option(metavar="DURATION", help="With --failed: of the last 30m, 12h.")] = "24h",
    wait: Wait = 10,
    as_json: Json = False,
) -> None:
    """Send mails again that their server refused for good; `mail written --status FAILED` lists them."""
    from deploy.cli.client.gateway import ask
    from shared.config.settings import seconds

    if bool(ids) is failed:
        raise typer.BadParameter("say which mails: IDs, or --failed --since DURATION", param_hint="ID")
    try:
        begin = datetime.now(UTC) - timedelta(seconds=seconds(since))
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(str(error), param_hint="--since") from error
    body = {"failed_since": begin.isoformat()} if failed else {"ids": [str(id_) for id_ in ids or ()]}
    job = ask(lambda gateway: gateway.resend(body, wait=wait))
    if (job.get("error") or {}).get("code") == "none_failed" and not as_json:
        which = f"no mail has failed in the last {since}" if failed else "none of these mails has failed"
        raise Failed(f"{which}: nothing is sent again; `malote mail written` says how each mail stands")
    end_of_job(job, as_json, waited=wait > 0)
    if (result := job.get("result")) and not as_json:
        typer.echo(f"resent {result['resent']:,}")


def newest(mailbox: Path, limit: int | None = None, to: str | None = None) -> list[dict[str, Any]]:
    """The headers of the newest mails (`limit` None: of all), read from as few files as possible."""
    files = files_of(mailbox)
    if limit and not to:
        files = heapq.nlargest(limit, files, key=lambda path: path.stat().st_mtime_ns)
    else:
        files = sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    found: list[dict[str, Any]] = []
    for path in files:
        mail = headers(path)
        if to is None or to in mail["to"]:
            found.append(mail)
        if len(found) == limit:
            break
    return found


def files_of(mailbox: Path) -> list[Path]:
    """The files of all mails. A mail that is still being written is in `tmp` and does not count."""
    return [path for folder in ("new", "cur") for path in (mailbox / folder).glob("*")]


def headers(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return summary(path, BytesHeaderParser(policy=default).parse(file))


def summary(path: Path, mail: Any) -> dict[str, Any]:
    """The fields of a mail in a list; `id` is its Message-ID without brackets."""
    return {
        "id": str(mail["message-id"] or path.name).strip("<> "),
        "date": parsedate_to_datetime(str(mail["date"])).isoformat() if mail["date"] else None,
        "to": str(mail["to"] or ""),
        "from": str(mail["from"] or ""),
        "subject": str(mail["subject"] or ""),
        "file": str(path),
    }


def find(mailbox: Path, mail_id: str) -> Path:
    """The newest mail whose Message-ID contains `mail_id`. Raises `Failed` where there is none."""
    for mail in newest(mailbox, limit=None if mail_id else 1):
        if mail_id.strip("<>") in mail["id"]:
            return Path(mail["file"])
    raise Failed(f"no mail {mail_id} in {mailbox}; `malote mail list` lists them".replace("  ", " "))


def _mailbox() -> Path:
    from deploy.local.environment import Environment

    return Environment().mailbox


def short(mail_id: str) -> str:
    """The end of a Message-ID, which finds the mail again: the end of a UUIDv7 is the part that differs."""
    return mail_id.partition("@")[0][-_SHORT:]


def _part(mail: EmailMessage, subtype: str) -> str:
    part = mail.get_body((subtype,))
    return (
        str(part.get_content()).replace("\r\n", "\n") if part else ""
    )  # a pipe gets line feeds, not the line ends of mail
