"""malote orders: place, show, list, cancel."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import typer

from deploy.cli.ids import OrderId, hinted, whole
from deploy.cli.output import (
    Json,
    Limit,
    Wait,
    at,
    console,
    end_of_job,
    hint_at_more,
    money,
    plain,
    print_json,
    state,
    table,
    visible,
)

app = typer.Typer(no_args_is_help=True)
_TIMES = ("placed_at", "confirmed_at", "rejected_at", "cancelled_at")


@app.command()
def place(
    sku: Annotated[list[str], typer.Option(metavar="SKU:QTY", help="A line; give it again for more lines.")],
    customer: Annotated[str, typer.Option(metavar="ID", help="The customer's id.")] = "ana",
    name: Annotated[str, typer.Option(help="The customer's name.")] = "Ana Souza",
    email: Annotated[str, typer.Option(help="Where mails about the order go.")] = "ana@example.com",
    locale: Annotated[Literal["pt-BR", "en"], typer.Option(help="The language of the mails.")] = "pt-BR",
    currency: Annotated[str, typer.Option(help="ISO 4217.")] = "BRL",
    wait: Wait = 0,
    idempotency_key: Annotated[str | None, typer.Option(help="Sent again with the same one, it is one order.")] = None,
    as_json: Json = False,
) -> None:
    """Place an order. With --wait, exit status 1 if it was not confirmed in time."""
    from deploy.cli.client.gateway import ask

    who = {"id": customer, "name": name, "email": email, "locale": locale}
    order = {"customer": who, "currency": currency, "lines": [line(text) for text in sku]}
    end_of_job(ask(lambda gateway: gateway.place(order, key=idempotency_key, wait=wait)), as_json, wait > 0)


@app.command()
def show(order_id: OrderId, as_json: Json = False) -> None:
    """One order: its lines, its state, and since when."""
    from deploy.cli.client.gateway import ask

    async def asked(gateway: Any) -> dict[str, Any]:
        found = await whole(gateway, order_id)
        return await hinted(gateway, "order", found, lambda gateway: gateway.order(found))

    order = ask(asked)
    if as_json:
        print_json(order)
    else:
        _describe(order)


@app.command("list")
def list_(
    status: Annotated[Literal["PLACED", "CONFIRMED", "REJECTED", "CANCELLED"] | None, typer.Option()] = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """The newest orders, by when they were placed."""
    from deploy.cli.client.gateway import ask

    page = ask(lambda gateway: gateway.orders(limit, status))
    if as_json:
        print_json(page)
        return
    rows = table(("order", "status", ">total", "placed", "customer~"), map(_row, page["data"]))
    console().print(rows if page["data"] else "no orders")
    hint_at_more(page, limit)


@app.command()
def cancel(order_id: OrderId, wait: Wait = 0, as_json: Json = False) -> None:
    """Ask for an order's cancellation. With --wait, exit status 1 if it could not be cancelled in time."""
    from deploy.cli.client.gateway import ask

    async def asked(gateway: Any) -> dict[str, Any]:
        found = await whole(gateway, order_id)
        return await hinted(gateway, "order", found, lambda gateway: gateway.cancel(found, wait=wait))

    end_of_job(ask(asked), as_json, wait > 0)


def line(text: str) -> dict[str, Any]:
    """`COFFEE-1KG:2` as a line of an order; without a quantity, one piece."""
    sku, _, quantity = text.partition(":")
    if not sku or not (quantity or "1").isdecimal():
        raise typer.BadParameter(f"{text!r} is not SKU:QTY, such as COFFEE-1KG:2", param_hint="--sku")
    return {"sku": sku, "quantity": int(quantity or 1)}


def _describe(order: dict[str, Any]) -> None:
    customer, out = order["customer"], console()
    reason = f" ({order['reason']})" if order["reason"] else ""
    out.print(f"order     {order['id']}\nstatus    {state(order['status'])}{reason}")
    about = f"{customer['name']} <{customer['email']}> ({customer['id']})"
    out.print(f"customer  {visible(about)}", markup=False)
    for name in _TIMES:
        if order[name]:
            out.print(f"{name.removesuffix('_at'):<9} {at(order[name])}")
    rows = [_line(entry) for entry in order["lines"]]
    if order["total"]:
        rows.append(("", "", "", "", f"[bold]{money(order['total'])}[/]"))
    out.print()
    out.print(table(("sku", "name~", ">quantity", ">price", ">total"), rows))
    for entry in order["rejected_lines"]:
        left = "unknown" if entry["available"] is None else f"{entry['available']} left"
        out.print(f"[red]{entry['sku']}[/]: {entry['quantity']} asked for, {left}")


def _row(order: dict[str, Any]) -> Sequence[str]:
    total, placed = money(order["total"]), at(order["placed_at"])
    return order["id"], state(order["status"]), total, placed, plain(order["customer"]["name"])


def _line(entry: dict[str, Any]) -> Sequence[str]:
    price, total = money(entry["unit_price"]), money(entry["total"])
    return entry["sku"], plain(entry["name"] or ""), str(entry["quantity"]), price, total
