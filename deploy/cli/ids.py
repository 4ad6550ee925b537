"""Ids from people: whole ids, order numbers of eight characters, and hints for an id of another kind."""

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from deploy.cli.errors import Failed, Refused

if TYPE_CHECKING:
    from deploy.cli.client.gateway import Gateway

_NUMBER = re.compile(r"[0-9A-Fa-f]{8}")
_LOOKED_THROUGH = 2_000
_KINDS = {
    "order": ("/v1/orders/{}", "malote orders show"),
    "job": ("/v1/jobs/{}", "malote jobs show"),
    "report": ("/v1/reports/{}", "malote reports show"),
    "dead letter": ("/v1/dead-letters/{}", "malote dlq show"),
}
_NOT_FOUND = "(404 "


def order(text: str) -> str:
    """An order's id, or its number. Raises `typer.BadParameter`."""
    if _NUMBER.fullmatch(text):
        return text.lower()
    try:
        return str(UUID(text))
    except ValueError:
        what = f"{text!r} is neither an order's id nor its number of eight characters, as mails have it"
        raise typer.BadParameter(what) from None


OrderId = Annotated[
    str,
    typer.Argument(metavar="ORDER_ID", show_default=False, parser=order, help="Its id, or its number from a mail."),
]


async def whole(gateway: "Gateway", order_id: str) -> str:
    """The id that ends with an order number, from the newest orders. Raises `Failed` if no order or several have it."""
    if not _NUMBER.fullmatch(order_id):
        return order_id
    found, looked = [], 0
    async for entry in gateway.each_order():
        looked += 1
        if str(entry["id"]).endswith(order_id):
            found.append(entry["id"])
        if looked == _LOOKED_THROUGH:
            break
    if len(found) == 1:
        return str(found[0])
    if found:
        raise Failed(f"several orders have the number {order_id.upper()}: {', '.join(found)}")
    where = f"none of the newest {looked:,} orders has the number {order_id.upper()}"
    raise Failed(f"{where}; `malote logs {order_id.upper()}` finds older ones in the logs")


async def hinted(
    gateway: "Gateway", kind: str, id_: object, question: Callable[["Gateway"], Awaitable[dict[str, Any]]]
) -> dict[str, Any]:
    """The answer for an id. If nothing of that kind has the id, the error names what has it."""
    try:
        return await question(gateway)
    except Refused as error:
        if _NOT_FOUND not in str(error):
            raise
        for other, (path, command) in _KINDS.items():
            if other != kind and await _is_there(gateway, path.format(id_)):
                article = "an" if other == "order" else "a"
                raise Refused(f"{error}; it is the id of {article} {other}: `{command} {id_}`") from error
        raise


async def _is_there(gateway: "Gateway", path: str) -> bool:
    try:
        await gateway.ask("GET", path)
    except Failed:
        return False
    return True
