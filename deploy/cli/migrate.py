"""malote migrate: bring databases to the newest version."""

from typing import Annotated, Any

import typer

from deploy.cli.errors import Failed

app = typer.Typer()


@app.command()
def migrate(
    service: Annotated[str, typer.Argument(metavar="SERVICE|all", help="A service, or all.", show_default=False)],
) -> None:
    """Bring a service's database to the newest version. Done twice, it changes nothing."""
    from deploy.local.environment import Environment

    here = Environment()
    if service not in (*here.services, "all"):
        raise typer.BadParameter(f"there is no {service!r}; there are {', '.join(here.services)}, or all")
    for name in here.services if service == "all" else [service]:
        _migrate(name, here.database_url_of(name), here.tls_of(name))


def _migrate(service: str, url: str, tls: Any) -> None:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    from deploy.local.environment import Misconfigured
    from shared.config.urls import with_driver
    from shared.persistence import database

    try:
        with_driver(url)  # raises with a text that says what to write
        shown = make_url(url).render_as_string(hide_password=True)
        database.migrate(service, url, tls)
    except ValueError as error:
        raise Misconfigured(f"{service.upper()}_DATABASE_URL is wrong: {error}") from error
    except (SQLAlchemyError, OSError) as error:
        why = str(error).splitlines()[0]
        raise Failed(f"{service}: {shown} cannot be migrated: {why}; is the database there?") from error
    typer.echo(f"{service}: {shown} is at the newest version")
