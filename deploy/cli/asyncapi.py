"""malote asyncapi: all messages on the broker, as AsyncAPI 3.0 documents."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.cli.errors import Failed

if TYPE_CHECKING:
    from shared.service import Service

app = typer.Typer()


@app.command()
def asyncapi(
    service: Annotated[str | None, typer.Argument(help="One service; without it, all of them.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Make contracts/asyncapi/ from the code again.")] = False,
) -> None:
    """Print the AsyncAPI document of the messages: who sends what, who reads it, and how it looks."""
    from shared.docs import asyncapi

    if write:
        made = documents()
        asyncapi.FOLDER.mkdir(exist_ok=True)
        for stale in asyncapi.FOLDER.glob("*.json"):
            stale.unlink()
        for name, document in made.items():
            (asyncapi.FOLDER / f"{name}.json").write_text(asyncapi.written(document), encoding="utf-8")
        typer.echo(str(asyncapi.FOLDER))
        return
    if service not in (None, *asyncapi.names()):
        raise typer.BadParameter(f"there is no service {service!r}: {', '.join(asyncapi.names())} are there")
    typer.echo(asyncapi.text(service or asyncapi.ALL), nl=False)


def documents() -> dict[str, dict[str, Any]]:
    """The documents from the code, one for each service and one for all."""
    from contracts.flow import SERVICES
    from shared.docs import asyncapi

    found = {name: declared(name).asyncapi() for name in SERVICES}
    return {asyncapi.ALL: asyncapi.merged(found.values()), **found}


def declared(name: str) -> Service:
    """A service with default settings, from which documents are written; it is not run. Raises `Failed` if the flow
    names a service without code."""
    from deploy.local.environment import ROOT
    from shared.config.services import settings_of
    from shared.service import Service

    if not (ROOT / f"services/{name}/handlers.py").exists():
        missing = f"there is no services/{name}/handlers.py"
        raise Failed(f"contracts/flow.py names the service {name}, but {missing}: write it first")
    settings: Any = settings_of(name)
    has_routes = importlib.util.find_spec(f"services.{name}.api")
    router = importlib.import_module(f"services.{name}.api").router if has_routes else None
    return Service(settings(_env_file=None), importlib.import_module(f"services.{name}.handlers"), router)
