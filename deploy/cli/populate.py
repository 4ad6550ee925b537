"""malote populate: places random orders over the gateway, or writes past orders into the databases."""

import asyncio
import sqlite3
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Annotated, Any

import typer

from deploy.cli import samples
from deploy.cli.errors import Failed, NotRunning
from deploy.cli.output import Json, console, print_json

app = typer.Typer()
Done = Callable[[int], None]
Result = dict[str, Any]


@app.command()
def populate(
    number: Annotated[int, typer.Argument(min=1, metavar="N", help="How many orders.", show_default=False)],
    concurrency: Annotated[int, typer.Option(min=1, max=200, help="How many at once.")] = 16,
    direct: Annotated[bool, typer.Option(help="A shop's past, straight into this machine's databases.")] = False,
    days: Annotated[int, typer.Option(min=1, max=3650, help="With --direct: over how many days.")] = 365,
    seed: Annotated[int, typer.Option(help="With --direct: another seed, other orders.")] = 1,
    as_json: Json = False,
) -> None:
    """Place N random orders over the gateway, and say how many a second it accepted.

    With --direct they are written into the tables of orders, stock and reports, as if they had been placed and dealt
    with long ago: a million in about a minute. No mails are sent, and there are no jobs of them.
    """
    if direct:
        from deploy.local.environment import Environment

        here = Environment()
        result = _shown("writing orders", number, as_json, lambda done: _directly(here, number, days, seed, done))
    else:
        result = _shown("placing orders", number, as_json, lambda done: _populate(number, concurrency, done))
    if as_json:
        print_json(result)
    else:
        did = "written" if direct else "accepted"
        typer.echo(f"{result['accepted']} orders {did} in {result['seconds']} s: {result['rate']}/s")
    if result["failed"]:
        raise Failed(f"{result['failed']} orders were not accepted, first: {result['first_error']}")


def _shown(doing: str, number: int, as_json: bool, work: Callable[[Done], Coroutine[Any, Any, Result]]) -> Result:
    """Do the work, with a bar on a terminal. `work` reports the number of further orders that are done."""
    if as_json or not sys.stdout.isatty():
        return asyncio.run(work(lambda _: None))
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[rate]:.0f}/s"), console=console()) as bar:
        task = bar.add_task("", total=number, rate=0.0)
        return asyncio.run(work(lambda more: bar.update(task, advance=more, rate=bar.tasks[task].speed or 0.0)))


async def _directly(here: Any, number: int, days: int, seed: int, done: Done) -> Result:
    from asyncpg import PostgresError
    from sqlalchemy.exc import SQLAlchemyError

    from deploy.local import direct

    started = time.monotonic()
    try:
        urls = {service: here.database_url_of(service) for service in direct.DATABASES}
        await direct.populate(urls, number, days=days, seed=seed, done=done, tls=here.tls_of())
    except (SQLAlchemyError, PostgresError, sqlite3.Error, OSError, ValueError) as error:
        raise Failed(f"{str(error).splitlines()[0]}; are the databases there? `malote doctor` looks") from error
    return _result(number, [], time.monotonic() - started)


async def _populate(number: int, concurrency: int, done: Done) -> Result:
    from deploy.cli.client.gateway import Gateway, gathered

    async with Gateway.here() as gateway:
        products = await gathered(gateway.products())
        if not products:
            raise Failed("the catalogue is empty; `malote products set` fills it")
        currency = products[0]["price"]["currency"]
        skus = [product["sku"] for product in products if product["price"]["currency"] == currency]
        waiting = iter(range(number))
        errors: list[str] = []
        started = time.monotonic()
        workers = (_work(gateway, waiting, skus, currency, errors, done) for _ in range(min(concurrency, number)))
        await asyncio.gather(*workers)
        took = time.monotonic() - started
    return _result(number, errors, took)


def _result(number: int, errors: list[str], took: float) -> Result:
    accepted = number - len(errors)
    return {
        "orders": number,
        "accepted": accepted,
        "failed": len(errors),
        "first_error": errors[0] if errors else None,
        "seconds": round(took, 3),
        "rate": round(accepted / took, 1),
    }


async def _work(
    gateway: Any, waiting: Iterator[int], skus: list[str], currency: str, errors: list[str], done: Done
) -> None:
    for turn in waiting:
        try:
            await gateway.place(samples.order(samples.customer(turn), skus, currency))
        except NotRunning:  # the gateway would not accept the rest either
            raise
        except Failed as error:
            errors.append(str(error))
        done(1)
