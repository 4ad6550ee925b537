"""malote populate: random orders, over the gateway as anybody's would come."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from deploy.cli import samples
from deploy.cli.errors import Failed, NotRunning
from deploy.cli.output import Json, console, print_json

app = typer.Typer()


@app.command()
def populate(
    number: Annotated[int, typer.Argument(min=1, metavar="N", help="How many orders.", show_default=False)],
    concurrency: Annotated[int, typer.Option(min=1, max=200, help="How many at once.")] = 16,
    as_json: Json = False,
) -> None:
    """Place N random orders over the gateway, and say how many a second it accepted."""
    if as_json or not sys.stdout.isatty():
        result = asyncio.run(_populate(number, concurrency, lambda: None))
    else:
        result = _with_a_bar(number, concurrency)
    if as_json:
        print_json(result)
    else:
        typer.echo(f"{result['accepted']} orders accepted in {result['seconds']} s: {result['rate']}/s")
    if result["failed"]:
        raise Failed(f"{result['failed']} orders were not accepted, first: {result['first_error']}")


def _with_a_bar(number: int, concurrency: int) -> dict[str, Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("placing orders"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[rate]:.0f}/s"), console=console()) as bar:
        task = bar.add_task("", total=number, rate=0.0)

        def done() -> None:
            bar.update(task, advance=1, rate=bar.tasks[task].speed or 0.0)

        return asyncio.run(_populate(number, concurrency, done))


async def _populate(number: int, concurrency: int, done: Callable[[], None]) -> dict[str, Any]:
    from deploy.cli.client import Gateway, gathered

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
    gateway: Any, waiting: Iterator[int], skus: list[str], currency: str, errors: list[str], done: Callable[[], None]
) -> None:
    for turn in waiting:
        try:
            await gateway.place(samples.order(samples.customer(turn), skus, currency))
        except NotRunning:  # nobody will take the rest either
            raise
        except Failed as error:
            errors.append(str(error))
        done()
