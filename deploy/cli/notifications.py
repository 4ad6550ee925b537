"""malote notifications: lists notifications, and chooses how to be notified."""

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import typer

from deploy.cli.output import Json, Limit, at, console, hint_at_more, plain, print_json, size, table

app = typer.Typer()


@app.callback(invoke_without_command=True)
def notifications(
    context: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", help="Print each new one as it arrives, until Ctrl-C.")] = False,
    read_all: Annotated[bool, typer.Option("--read-all", help="Mark all as read.")] = False,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """What became of reports, newest first. --follow --json: a line for each."""
    from deploy.cli.client.gateway import ask

    if context.invoked_subcommand:
        return
    if read_all:
        ask(lambda gateway: gateway.read_all())
    if follow:
        _follow(as_json)
        return
    page = ask(lambda gateway: gateway.notifications(limit))
    if as_json:
        print_json(page)
        return
    if page["data"]:
        console().print(table(("at", "new", "what", "report", "about~"), map(_row, page["data"])))
    typer.echo(f"{page['unread']} unread" if page["data"] else "no notifications")
    hint_at_more(page, limit)


@app.command()
def choose(
    mail: Annotated[bool | None, typer.Option("--mail/--no-mail", help="Notify by mail.")] = None,
    in_app: Annotated[bool | None, typer.Option("--in-app/--no-in-app", help="Notify in this list.")] = None,
    email: Annotated[str | None, typer.Option(metavar="ADDRESS", help="The address; by default the token's.")] = None,
    locale: Annotated[Literal["pt-BR", "en"] | None, typer.Option(help="The language of mails.")] = None,
    as_json: Json = False,
) -> None:
    """Choose how to be told when a report ends; without options, show what is chosen."""
    from deploy.cli.client.gateway import Gateway, ask

    mail = True if mail is None and email else mail  # an address implies mail
    requests = {"mail": mail, "in_app": in_app, "email": email, "locale": locale}
    given = {name: value for name, value in requests.items() if value is not None}

    async def change(gateway: Gateway) -> dict[str, Any]:
        chosen = await gateway.choice()
        return await gateway.choose(chosen | given) if given else chosen

    choice = ask(change)
    if as_json:
        print_json(choice)
        return
    mails = f"to {choice['email'] or 'the address in the token'}, in {choice['locale']}" if choice["mail"] else "no"
    typer.echo(f"mail    {mails}\nin app  {'yes' if choice['in_app'] else 'no'}")


def _follow(as_json: bool) -> None:
    from deploy.cli.client.gateway import Gateway

    async def go() -> None:
        async with Gateway.here() as gateway:
            async for notice in gateway.follow():
                if as_json:
                    typer.echo(json.dumps(notice, ensure_ascii=False))
                else:
                    console().print("  ".join(filter(None, _row(notice))))

    try:
        asyncio.run(go())
    except KeyboardInterrupt:  # Ctrl-C is the way to end it
        return


def _row(notice: dict[str, Any]) -> Sequence[str]:
    what = notice["message"].removeprefix("report.").partition(".")[0]
    new = "" if notice["read_at"] else "*"
    rows = "" if notice["rows"] is None else f", {notice['rows']:,} rows, {size(notice['bytes'])}"
    about = f"{notice['kind']} as {notice['format']}{rows}"
    return at(notice["created_at"]), new, what, notice["report_id"], plain(notice.get("detail") or about)
