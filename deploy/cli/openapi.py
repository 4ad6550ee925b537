"""malote openapi: the HTTP of all services, as OpenAPI 3.1 documents."""

from typing import Annotated

import typer

from deploy.cli.asyncapi import declared

app = typer.Typer()


@app.command()
def openapi(
    service: Annotated[
        str, typer.Argument(help="One service; the gateway's document has all public routes.")
    ] = "gateway",
    write: Annotated[bool, typer.Option("--write", help="Make contracts/openapi/ from the code again.")] = False,
) -> None:
    """Print the OpenAPI document of what clients may ask over HTTP."""
    from contracts import published
    from shared.docs import openapi

    if write:
        for name in write_all():
            typer.echo(str(published.FOLDER / f"{name}.json"))
        return
    known = published.committed()
    if service not in known:
        raise typer.BadParameter(f"there is no service {service!r}: {', '.join(known)} are there")
    typer.echo(openapi.written(known[service]), nl=False)


def write_all() -> list[str]:
    """Write the committed documents anew; return the names of their services."""
    from contracts import published
    from contracts.flow import SERVICES
    from shared.docs import openapi

    services = {name: declared(name) for name in SERVICES}
    published.FOLDER.mkdir(exist_ok=True)
    for stale in published.FOLDER.glob("*.json"):
        if stale.stem not in services:
            stale.unlink()
    # The gateway's document is merged from those of the others, so it comes last.
    for name in sorted(services, key=lambda name: (name == "gateway", name)):
        document = openapi.written(services[name].app.openapi())
        (published.FOLDER / f"{name}.json").write_text(document, encoding="utf-8")
    return sorted(services)
