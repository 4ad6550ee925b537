"""malote processes: lists the living processes of services, and times their answers."""

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.cli.errors import Failed, NotRunning
from deploy.cli.output import Json, console, plain, print_json, size, table

if TYPE_CHECKING:
    from deploy.local.environment import Environment

app = typer.Typer(invoke_without_command=True)
Seconds = Annotated[float, typer.Option(min=0.1, max=60, help="How long to wait for answers.")]


@app.callback()
def processes(context: typer.Context, seconds: Seconds = 1.0, as_json: Json = False) -> None:
    """Which processes live: each is asked over the broker and says what its lanes have in hand and have done.

    It needs the broker's administrator (AMQP_URL, or this machine's own)."""
    if context.invoked_subcommand:
        return
    found = [said for said, _ in _ask(seconds)]
    if as_json:
        print_json({"data": found})
        return
    rows = [
        (
            plain(one["service"]),
            plain(one["process_id"]),
            one["version"],
            size(one["memory_bytes"]),
            "\n".join(_lane(lane) for lane in one["lanes"]),
        )
        for one in found
    ]
    console().print(table(("service", "process~", "version", "memory", "lanes~"), rows))


@app.command()
def ping(seconds: Seconds = 1.0, as_json: Json = False) -> None:
    """How long each process takes to answer over the broker. Exit status 1 if none does."""
    found = _ask(seconds)
    if as_json:
        data = [{"service": said["service"], "process_id": said["process_id"], "ms": ms} for said, ms in found]
        print_json({"data": data})
    else:
        rows = [(plain(said["service"]), plain(said["process_id"]), f"{ms:.1f} ms") for said, ms in found]
        console().print(table(("service", "process~", "answered in"), rows))
        typer.echo(f"{len(found)} answered", err=True)
    if not found:
        raise typer.Exit(1)


def _lane(lane: dict[str, Any]) -> str:
    mean = f", {lane['mean_seconds'] * 1000:.1f} ms each" if lane["mean_seconds"] is not None else ""
    rate = f", at most {lane['rate']:g}/s" if lane["rate"] else ""
    paused = f", {plain(lane['paused'])}" if lane["paused"] else ""
    counts = f"{lane['in_hand']:,} in hand, {lane['done']:,} done, {lane['failed']:,} failed"
    return f"{plain(lane['name'])}: {counts}{mean}{rate}{paused}"


def _ask(seconds: float) -> list[tuple[dict[str, Any], float]]:
    """The answer of each process and its milliseconds, sorted by service. Raises `NotRunning` without a broker."""
    import aio_pika.exceptions

    from deploy.local.environment import Environment
    from shared.config.urls import places_in
    from shared.messaging.causes import cause_of

    here = Environment()
    where = places_in(here.amqp_url)
    try:
        found = asyncio.run(_answers(here, seconds))
    except OSError as error:  # aio-pika also raises this if it cannot connect or log in
        why = f"no connection to the broker at {where} ({cause_of(error)})"
        raise NotRunning(f"{why}; `malote up` starts one, or set AMQP_URL to an administrator's") from error
    except aio_pika.exceptions.ChannelNotFoundEntity as error:
        raise Failed(f"the broker at {where} has no exchange for this; `malote topology apply` makes it") from error
    except aio_pika.exceptions.AMQPError as error:
        raise Failed(f"the broker refuses: {cause_of(error)}; is AMQP_URL an administrator's?") from error
    return sorted(found, key=lambda one: (one[0]["service"], one[0]["process_id"]))


async def _answers(here: "Environment", seconds: float) -> list[tuple[dict[str, Any], float]]:
    import aio_pika
    from uuid_utils.compat import uuid7

    from contracts.broker import CONTROL
    from contracts.processes import Control, ProcessSeen
    from shared.messaging.amqp.connections import connect

    ping_id, found = str(uuid7()), list[tuple[dict[str, Any], float]]()
    async with await connect(here.amqp_url, here.tls_of()) as connection:
        channel = await connection.channel()
        answers = await channel.declare_queue(exclusive=True, auto_delete=True)
        await answers.bind(ProcessSeen.exchange, ProcessSeen.key)
        exchange = await channel.get_exchange(CONTROL)
        asked = aio_pika.Message(Control(do="ping", ping_id=ping_id).model_dump_json(exclude_none=True).encode())
        began = time.perf_counter()

        async def take(message: Any) -> None:
            if message.correlation_id == ping_id:
                said = ProcessSeen.read(message.body).model_dump(mode="json")
                found.append((said, (time.perf_counter() - began) * 1000))

        await answers.consume(take, no_ack=True)
        began = time.perf_counter()
        await exchange.publish(asked, "all")
        await asyncio.sleep(seconds)
    return found
