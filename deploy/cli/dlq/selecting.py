"""Which dead letters a command is about: options, filters and selections."""

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from inspect import Parameter
from typing import Annotated, Any, Literal
from uuid import UUID

import typer

from deploy.cli.errors import Failed, Refused
from deploy.cli.ids import order as an_order
from deploy.cli.ids import whole

Body = dict[str, Any]
LetterId = Annotated[UUID, typer.Argument(metavar="ID", show_default=False)]
LetterIds = Annotated[list[UUID] | None, typer.Argument(metavar="[ID]...", show_default=False)]
Lane = Annotated[str | None, typer.Option(help="The lane that failed, such as stock.")]
Message = Annotated[str | None, typer.Option(help="The message's name, such as order.placed.v1.")]
Group = Annotated[str | None, typer.Option(metavar="GROUP", help="A group from `dlq list`.")]
Text = Annotated[str | None, typer.Option(help="Text in the body, in the ids or in the reason.")]
Order = Annotated[
    str | None,
    typer.Option(metavar="ORDER_ID", parser=an_order, help="The order that it is about, or its number from a mail."),
]
Job = Annotated[str | None, typer.Option(metavar="JOB_ID", help="The job that it belongs to.")]
State = Annotated[
    Literal["WAITING", "SENT", "DONE", "REPLACED"] | None, typer.Option(help="By default those that wait.")
]
_FILTER = {
    "lane": Lane,
    "message": Message,
    "group": Group,
    "text": Text,
    "order": Order,
    "job": Job,
    "state": State,
}
STATES = ("WAITING", "SENT", "DONE", "REPLACED")
_GROUP = re.compile(r"[0-9a-f]{12}")


def filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that select letters to a command. It gets the selection as `wanted`."""
    own = inspect.signature(command)
    options = [Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=_FILTER[name]) for name in _FILTER]

    @functools.wraps(command)
    def called(**given: Any) -> None:
        said = {name: given.pop(name) for name in _FILTER}
        command(wanted=_wanted(**said), **given)

    rest = [p.replace(kind=Parameter.KEYWORD_ONLY) for name, p in own.parameters.items() if name != "wanted"]
    called.__signature__ = own.replace(parameters=[*options, *rest])  # type: ignore[attr-defined]
    return called


def _wanted(
    lane: str | None,
    message: str | None,
    group: str | None,
    text: str | None,
    order: str | None,
    job: str | None,
    state: str | None,
) -> Body:
    from deploy.cli.client.gateway import ask

    given = {"lane": lane, "message": message, "group": group, "text": text, "job_id": job, "state": state}
    return {name: value for name, value in given.items() if value} | (
        {"order_id": ask(lambda gateway: whole(gateway, order))} if order else {}
    )


def selection(ids: list[UUID] | None, wanted: Body, *, everything: bool) -> Body:
    ways: list[Body] = [{"ids": [str(id_) for id_ in ids]}] if ids else []
    ways += [{"filter": wanted}] if wanted else []
    ways += [{"all": True}] if everything else []
    if len(ways) != 1:
        raise typer.BadParameter(
            "name letters by their ids, or by what they have in common (`--group` …): one of the two"
        )
    return ways[0]


def demand_some(ids: list[UUID] | None, wanted: Body, states: Sequence[str]) -> int:
    """The number of selected letters; an id without a letter is named on stderr. Raises `Failed` if none is
    selected."""
    from deploy.cli.client.gateway import ask

    demand_known(wanted)
    number = ask(lambda gateway: _number_of(gateway, ids, states) if ids else _total(gateway, wanted))
    if not number:
        raise Failed("nothing matches; `malote dlq list --letters` shows what is there")
    return number


async def _total(gateway: Any, wanted: Body) -> int:
    return int((await gateway.letter_groups(wanted))["total"])


async def _number_of(gateway: Any, ids: list[UUID], states: Sequence[str]) -> int:
    found = 0
    for id_ in dict.fromkeys(ids):
        try:
            letter = await gateway.letter(id_)
        except Refused as error:
            if "404" not in str(error):
                raise
            typer.echo(f"there is no dead letter {id_}", err=True)
            continue
        if letter["state"] in states:
            found += 1
        else:
            typer.echo(f"letter {id_} does not wait: it is {letter['state']}", err=True)
    return found


def demand_known(wanted: Body) -> None:
    """Raise `typer.BadParameter` for an unknown group, lane or message, which would select nothing."""
    from contracts.flow import BY_KEY, LANES

    if (group := wanted.get("group")) and not _GROUP.fullmatch(group):
        raise typer.BadParameter(
            f"{group!r} is no group: `malote dlq list` shows them, such as 0f1e2d3c4b5a", param_hint="--group"
        )
    for name, known in (("lane", LANES), ("message", tuple(BY_KEY))):
        said = wanted.get(name)
        if said and said not in known:
            _demand_letters_of(name, said, known)


def _demand_letters_of(name: str, said: str, known: Sequence[str]) -> None:
    """Raise `typer.BadParameter` for an unknown lane or message, unless there are letters of it."""
    from deploy.cli.client.gateway import ask

    async def is_there(gateway: Any) -> bool:
        totals = [await _total(gateway, {name: said, "state": state_}) for state_ in STATES]
        return any(totals)

    if not ask(is_there):
        raise typer.BadParameter(
            f"there is no {name} {said!r}, and no letter of it; there are {', '.join(sorted(known))}",
            param_hint=f"--{name}",
        )
