"""malote token: makes tokens for curl, scripts and tests of a role, and revokes them."""

from typing import Annotated, Any, Literal

import typer

from deploy.cli.output import Json, print_json

app = typer.Typer()


@app.callback(invoke_without_command=True)
def token(
    context: typer.Context,
    role: Annotated[
        Literal["operator", "customer"] | None, typer.Option(help="What the caller may do.", show_default=False)
    ] = None,
    subject: Annotated[
        str | None, typer.Option(metavar="ID", help="The subject: a customer's id.", show_default=False)
    ] = None,
    ttl: Annotated[str, typer.Option(metavar="DURATION", help="Its life: 90s, 30m, 12h.")] = "24h",
    read_only: Annotated[bool, typer.Option("--read-only", help="It may only read.")] = False,
) -> None:
    """Print a token for this machine's gateway, and nothing else. `revoke` ends one early."""
    from deploy.local.environment import Environment
    from shared.http.tokens import issue_token

    if context.invoked_subcommand:
        return
    if role is None:
        raise typer.BadParameter("say what the token may do: operator or customer", param_hint="--role")
    if subject is None or not subject.strip():
        raise typer.BadParameter("a token is for somebody", param_hint="--subject")
    try:
        secret, good_for = Environment().jwt_secret, _seconds(ttl)
        typer.echo(issue_token(secret, subject=subject, role=role, ttl=good_for, read_only=read_only))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--subject") from error


@app.command()
def revoke(
    token_id: Annotated[str | None, typer.Option("--id", metavar="JTI", help="One token, by its `jti`.")] = None,
    subject: Annotated[
        str | None, typer.Option(metavar="ID", help="All tokens of a subject that were issued until now.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Revoke a token before its end: at once at this gateway, within seconds at every other."""
    from deploy.cli.client.gateway import ask

    if (token_id is None) == (subject is None):
        raise typer.BadParameter("give --id or --subject, and only one of them", param_hint="--id")
    body: dict[str, Any] = {"token_id": token_id} if token_id else {"subject": subject}
    revoked = ask(lambda gateway: gateway.ask("POST", "/v1/revocations", body))
    if as_json:
        print_json(revoked)
    else:
        what = f"the token {token_id}" if token_id else f"all that {subject} was given until {revoked['before']}"
        typer.echo(f"revoked: {what}")


def _seconds(duration: str) -> int:
    """`12h`, or a number of seconds."""
    from shared.config.settings import seconds

    try:
        found = int(seconds(f"{duration}s" if duration.isdecimal() else duration))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--ttl") from error
    if found < 1:
        raise typer.BadParameter("a token is good for a second at least", param_hint="--ttl")
    return found
