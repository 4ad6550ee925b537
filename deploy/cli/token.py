"""malote token: for curl, for scripts, for trying out a role."""

from typing import Annotated, Literal

import typer

app = typer.Typer()


@app.command()
def token(
    role: Annotated[Literal["operator", "customer"], typer.Option(help="What it may do.", show_default=False)],
    subject: Annotated[str, typer.Option(metavar="ID", help="Who it is for: a customer's id.", show_default=False)],
    ttl: Annotated[str, typer.Option(metavar="DURATION", help="How long it is good: 90s, 30m, 12h.")] = "24h",
    read_only: Annotated[bool, typer.Option("--read-only", help="It may only read.")] = False,
) -> None:
    """Print a token for this machine's gateway, and nothing else."""
    from deploy.local.environment import Environment
    from shared.tokens import issue_token

    if not subject.strip():
        raise typer.BadParameter("a token is for somebody", param_hint="--subject")
    try:
        secret, good_for = Environment().jwt_secret, _seconds(ttl)
        typer.echo(issue_token(secret, subject=subject, role=role, ttl=good_for, read_only=read_only))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--subject") from error


def _seconds(duration: str) -> int:
    """`12h`, or a number of seconds."""
    from shared.settings import seconds

    try:
        found = int(seconds(f"{duration}s" if duration.isdecimal() else duration))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--ttl") from error
    if found < 1:
        raise typer.BadParameter("a token is good for a second at least", param_hint="--ttl")
    return found
