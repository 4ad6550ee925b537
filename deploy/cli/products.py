"""malote products, malote stock: the catalogue and its levels."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.cli.output import Json, console, minor_units, money, plain, print_json, table

if TYPE_CHECKING:
    from deploy.cli.client.gateway import Gateway

app = typer.Typer(no_args_is_help=True)
stock = typer.Typer(no_args_is_help=True)
Sku = Annotated[str, typer.Argument(metavar="SKU", show_default=False)]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """The catalogue: prices and levels."""
    from deploy.cli.client.gateway import ask, gathered

    products = ask(lambda gateway: gathered(gateway.products()))
    if as_json:
        print_json({"data": products, "has_more": False})
    else:
        _show(products)


@app.command("set")
def set_(
    sku: Sku,
    name: Annotated[str, typer.Option(help="The product's name.")],
    price: Annotated[str, typer.Option(metavar="AMOUNT", help="The price of one piece, such as 69.90.")],
    currency: Annotated[str, typer.Option(help="ISO 4217.")] = "BRL",
    low_threshold: Annotated[int, typer.Option(min=0, help="Operators get a mail once fewer are available.")] = 10,
    as_json: Json = False,
) -> None:
    """Set a product's name, price and threshold. A new one has no pieces yet: see `malote stock adjust`."""
    from deploy.cli.client.gateway import ask

    cost = {"amount": minor_units(price, currency), "currency": currency}
    body = {"name": name, "price": cost, "low_threshold": low_threshold}
    _show_one(ask(lambda gateway: gateway.set_product(sku, body)), as_json)


@app.command()
def seed(as_json: Json = False) -> None:
    """Fill an empty catalogue with a few products to try orders with, as `malote up` does."""
    from deploy.cli.client.gateway import ask

    count = ask(_fill)
    if as_json:
        print_json({"products": count})
    else:
        typer.echo(f"{count} products" if count else "the catalogue is not empty; nothing was changed")


async def _fill(gateway: "Gateway") -> int:
    from deploy.local.catalogue import PRODUCTS

    async for _ in gateway.products():
        return 0
    for product in PRODUCTS:
        price = {"amount": product.price, "currency": "BRL"}
        body = {"name": product.name, "price": price, "low_threshold": product.low_threshold}
        await gateway.set_product(product.sku, body)
        await gateway.adjust(product.sku, product.pieces, "first delivery")
    return len(PRODUCTS)


@stock.command(context_settings={"ignore_unknown_options": True})
def adjust(
    sku: Sku,
    delta: Annotated[int, typer.Argument(metavar="DELTA", help="Pieces to add; below zero, to take.")],
    reason: Annotated[str, typer.Option(help="Why, for the records.")],
    as_json: Json = False,
) -> None:
    """Add or take pieces: `malote stock adjust MUG-RARE -1 --reason broken`."""
    from deploy.cli.client.gateway import ask

    _show_one(ask(lambda gateway: gateway.adjust(sku, delta, reason)), as_json)


def _show_one(product: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(product)
    else:
        _show([product])


def _show(products: Sequence[dict[str, Any]]) -> None:
    columns = ("sku", "name~", ">price", ">on hand", ">reserved", ">available")
    console().print(table(columns, map(_row, products)) if products else "no products")


def _row(product: dict[str, Any]) -> Sequence[str]:
    available = str(product["available"])
    if product["available"] < product["low_threshold"]:
        available = f"[red]{available}[/]"
    levels = (str(product["on_hand"]), str(product["reserved"]), available)
    return product["sku"], plain(product["name"]), money(product["price"]), *levels
