"""Looking at dead letters, which changes nothing."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.cli.dlq.selecting import Body, LetterId, demand_known, filtered
from deploy.cli.errors import Failed
from deploy.cli.ids import hinted
from deploy.cli.output import (
    Json,
    at,
    beside,
    console,
    hint_at_more,
    number_of,
    opened,
    plain,
    print_json,
    size,
    state,
    table,
    visible,
)

Limit = Annotated[int, typer.Option(min=1, max=100, help="How many: the largest groups, or the newest.")]
_WIDE = 120


@filtered
def list_(
    wanted: Body,
    letters: Annotated[bool, typer.Option("--letters", help="Each letter, newest first, instead of groups.")] = False,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Groups of dead letters by lane, message and reason. Single letters with --letters, or if a group, text, order or
    job is given."""
    from deploy.cli.client.gateway import ask

    each = letters or {"group", "text", "order_id", "job_id"} & set(wanted)
    demand_known(wanted)
    page = ask(lambda gateway: gateway.letters(limit, wanted) if each else gateway.letter_groups(wanted))
    if not each and len(page["data"]) > limit:
        page |= {"data": page["data"][:limit], "has_more": True}
    if as_json:
        print_json(page)
        return
    shown = _table_of_letters if each else _table_of_groups
    console().print(shown(page["data"]) if page["data"] else "no dead letters")
    if each:
        hint_at_more(page, limit)
    if not each and page["has_more"]:
        listed = sum(group["count"] for group in page["data"])
        typer.echo(
            f"and {page['total'] - listed:,} more letters in smaller groups; --limit lists more, --lane or --text fewer"
        )


def show(letter_id: LetterId, as_json: Json = False) -> None:
    """One dead letter: why it failed, what it carries, what was done with it."""
    from deploy.cli.client.gateway import ask

    letter = ask(lambda gateway: hinted(gateway, "dead letter", letter_id, lambda g: g.letter(letter_id)))
    if as_json:
        print_json(letter)
    else:
        _describe(letter)


@filtered
def export(
    wanted: Body,
    output: Annotated[Path, typer.Option(metavar="FILE", help="The file to write, once it is complete; - is stdout.")],
    as_json: Json = False,
) -> None:
    """Write dead letters with what they carry to a file: JSON, one to a line, oldest first."""
    from deploy.cli.client.gateway import Gateway

    async def go() -> int:
        number = 0
        with opened(output) as file:
            async with Gateway.here() as gateway:
                async for line in gateway.export_letters(wanted):
                    file.write(f"{line}\n".encode())
                    number += 1
        return number

    demand_known(wanted)
    try:
        written = asyncio.run(go())
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Failed(f"{output}: {error.strerror or error}") from error
    with beside(output):
        if as_json:
            print_json({"file": str(output), "letters": written})
        else:
            typer.echo(f"{output}: {number_of(written, 'letter')}")


def actions(limit: Limit = 20, as_json: Json = False) -> None:
    """What was done with dead letters: by whom, when, and how it ended."""
    from deploy.cli.client.gateway import ask

    page = ask(lambda gateway: gateway.letter_actions(limit))
    if as_json:
        print_json(page)
        return
    columns = ("job", "at", "by~", "what", "status", ">letters", ">done", ">failed", "which~")
    console().print(table(columns, map(_action, page["data"])) if page["data"] else "nothing was done yet")
    hint_at_more(page, limit)


def _table_of_groups(groups: list[Body]) -> Any:
    """A line for each group. On a narrow terminal, without the columns that `--group` and `--json` also show."""
    columns = {
        "group": [g["id"] for g in groups],
        ">letters": [f"{g['count']:,}" for g in groups],
        "first": [at(g["first_at"]) for g in groups],
        "last": [at(g["last_at"]) for g in groups],
        "lane": [g["lane"] for g in groups],
        "message": [plain(g["message"]) for g in groups],
        "reason~": [plain(g["reason"]) for g in groups],
    }
    return _fitted(columns, narrow=("group", ">letters", "last", "lane", "reason~"))


def _table_of_letters(letters: list[Body]) -> Any:
    columns = {
        "letter": [x["id"] for x in letters],
        "state": [state(x["state"]) for x in letters],
        "lane": [x["lane"] for x in letters],
        "message": [plain(x["message"]) for x in letters],
        "last": [at(x["last_at"]) for x in letters],
        "reason~": [plain(x["reason"]) for x in letters],
    }
    return _fitted(columns, narrow=("letter", "last", "reason~"))


def _fitted(columns: dict[str, list[str]], narrow: Sequence[str]) -> Any:
    shown = narrow if console().width < _WIDE else [*columns]
    return table(shown, zip(*(columns[name] for name in shown), strict=True))


def _action(action: Body) -> Sequence[str]:
    total = "" if action["total"] is None else f"{action['total']:,}"
    about = (action["id"], at(action["at"]), plain(action["by"]), action["kind"], state(action["status"]), total)
    return *about, f"{action['done']:,}", f"{action['failed']:,}", plain(_which(action["wish"]))


def _which(request: Body) -> str:
    """The subject of an action: `lane stock, text COFFEE`, `letter …`, `12 letters`."""
    selection = request.get("selection") or {}
    if selection.get("all"):
        return "all that wait"
    if len(ids := selection.get("ids") or []) > 1:
        return number_of(len(ids), "letter")
    said = {"letter": ids[0]} if ids else selection.get("filter") or request
    return ", ".join(f"{name.removesuffix('_id')} {value}" for name, value in said.items() if name != "message_id")


def _describe(letter: Body) -> None:
    out = console()
    out.print(f"letter    {letter['id']}\nstate     {state(letter['state'])}")
    about = ("lane", "message", "message_id", "job_id", "order_id", "group", "reason", "attempts", "service", "host")
    for name in about:
        if letter[name] not in (None, ""):
            out.print(
                f"{name.removesuffix('_id') if name != 'message_id' else 'id':<9} {visible(str(letter[name]))}",
                markup=False,
            )
    out.print(f"failed    {at(letter['first_at'])} to {at(letter['last_at'])}, {size(letter['size'])}")
    for entry in letter["history"]:
        more = ", ".join(f"{name} {value}" for name, value in entry.items() if name not in ("at", "what") and value)
        out.print(f"{at(entry['at']):<9} {entry['what']}{f' ({visible(more)})' if more else ''}", markup=False)
    body, encoding = text_of(letter), letter["encoding"]
    how = "" if encoding == "json" else f" ({encoding}{'' if body else ', empty'})"
    out.print(f"\nbody{how}:\n{visible(body)}", markup=False, soft_wrap=True)
    if letter["traceback"]:
        out.print(f"\ntraceback:\n{visible(letter['traceback'].strip())}", markup=False, soft_wrap=True)


def text_of(letter: Body) -> str:
    """The text of a letter's body."""
    return letter["body"] if letter["encoding"] != "json" else json.dumps(letter["body"], indent=1, ensure_ascii=False)
