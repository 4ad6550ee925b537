"""malote topology: exchanges, queues and users on the broker, derived from `contracts.flow`."""

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.cli.errors import Failed, NotRunning
from deploy.cli.output import Json, console, print_json, table

app = typer.Typer(no_args_is_help=True)


@app.command()
def show(as_json: Json = False) -> None:
    """Which message goes to which lanes. --json: all that is declared on the broker."""
    if as_json:
        print_json(_definitions())
        return
    from contracts.flow import FLOW

    rows = [
        (message.exchange, message.key, ", ".join(route.lanes) or "[dim]no lane of Malote's[/]")
        for message, route in FLOW.items()
    ]
    console().print(table(("exchange", "key", "lanes~"), rows))


@app.command()
def apply() -> None:
    """Declare everything on the broker, with its users and permissions. It is safe to repeat."""
    import aio_pika.exceptions
    import httpx

    from deploy.local.environment import Environment
    from shared.config.urls import places_in
    from shared.messaging import topology
    from shared.messaging.causes import cause_of
    from shared.messaging.old_queues import Left

    here = Environment()
    where = places_in(here.amqp_url)
    typer.echo(f"declaring exchanges, queues, users and permissions at {where}", err=True)
    try:
        asyncio.run(
            topology.apply(here.amqp_url, here.management_url, here.passwords, here.retry_ladder, here.tls_of())
        )
    except (OSError, httpx.TransportError) as error:
        raise NotRunning(f"no broker at {where} ({error}); `malote up` starts one, or set AMQP_URL") from error
    except httpx.HTTPStatusError as error:
        answer = f"{error.response.status_code} to {error.request.url.path}"
        raise Failed(f"the management API says {answer}; is AMQP_URL an administrator's?") from error
    except Left as error:
        raise Failed(str(error)) from error
    except aio_pika.exceptions.ChannelPreconditionFailed as error:
        what = f"{error}: it is there with other arguments; delete it, or move its messages away and delete it"
        raise Failed(f"the broker at {where} refuses: {what}") from error
    except aio_pika.exceptions.AMQPError as error:
        raise Failed(f"the broker at {where} refuses: {cause_of(error)}; is AMQP_URL an administrator's?") from error
    typer.echo(f"the broker at {where} has all exchanges, queues, bindings, users and permissions")


@app.command()
def export(
    output: Annotated[Path | None, typer.Option(help="Instead of deploy/rabbitmq/definitions.json.")] = None,
) -> None:
    """Write everything as a RabbitMQ definitions file. Users have no passwords in it."""
    from deploy.local.environment import ROOT

    path = output or ROOT / "deploy/rabbitmq/definitions.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_definitions(), indent=1) + "\n")
    typer.echo(str(path))


def _definitions() -> dict[str, Any]:
    from deploy.local.environment import Environment
    from shared.messaging import topology

    return topology.definitions(Environment().retry_ladder)
