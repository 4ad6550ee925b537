"""malote dlq: look at dead letters, send them again, edit, purge, export."""

import asyncio
import functools
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import typer

from deploy.cli.errors import Failed, Refused
from deploy.cli.following import follow
from deploy.cli.ids import hinted, whole
from deploy.cli.ids import order as an_order
from deploy.cli.output import (
    Json,
    Wait,
    at,
    beside,
    console,
    end_of_job,
    number_of,
    opened,
    plain,
    print_json,
    size,
    state,
    table,
    tell_of_more,
    visible,
)

app = typer.Typer(no_args_is_help=True)
Body = dict[str, Any]
LetterId = Annotated[UUID, typer.Argument(metavar="ID", show_default=False)]
LetterIds = Annotated[list[UUID] | None, typer.Argument(metavar="[ID]...", show_default=False)]
Lane = Annotated[str | None, typer.Option(help="The lane that failed, such as stock.")]
Message = Annotated[str | None, typer.Option(help="The message's name, such as order.placed.v1.")]
Group = Annotated[str | None, typer.Option(metavar="GROUP", help="A group from `dlq list`.")]
Text = Annotated[str | None, typer.Option(help="What is in the body, the ids or the reason.")]
Order = Annotated[
    str | None,
    typer.Option(metavar="ORDER_ID", parser=an_order, help="The order that it is about, or its number from a mail."),
]
Job = Annotated[str | None, typer.Option(metavar="JOB_ID", help="The job that it belongs to.")]
Limit = Annotated[int, typer.Option(min=1, max=100, help="How many: the largest groups, or the newest.")]
State = Annotated[Literal["WAITING", "SENT", "DONE", "REPLACED"] | None, typer.Option(help="Else those that wait.")]
_FILTER = {
    "lane": Lane,
    "message": Message,
    "group": Group,
    "text": Text,
    "order": Order,
    "job": Job,
    "state": State,
}
_STATES = ("WAITING", "SENT", "DONE", "REPLACED")
_GROUP = re.compile(r"[0-9a-f]{12}")
_EDIT_WAIT = 10
_WIDE = 120


def filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which letters; it is called with what they say as `wanted`."""
    own = inspect.signature(command)
    options = [Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=_FILTER[name]) for name in _FILTER]

    @functools.wraps(command)
    def called(**given: Any) -> None:
        said = {name: given.pop(name) for name in _FILTER}
        command(wanted=_wanted(**said), **given)

    rest = [p.replace(kind=Parameter.KEYWORD_ONLY) for name, p in own.parameters.items() if name != "wanted"]
    called.__signature__ = own.replace(parameters=[*options, *rest])  # type: ignore[attr-defined]
    return called


@app.command("list")
@filtered
def list_(
    wanted: Body,
    letters: Annotated[bool, typer.Option("--letters", help="Each letter, newest first, instead of groups.")] = False,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Dead letters by lane, message and reason; each by itself with --letters, or where a group, text, order or job is
    asked for. Looking changes nothing."""
    from deploy.cli.client.gateway import ask

    each = letters or {"group", "text", "order_id", "job_id"} & set(wanted)
    _demand_known(wanted)
    page = ask(lambda gateway: gateway.letters(limit, wanted) if each else gateway.letter_groups(wanted))
    if not each and len(page["data"]) > limit:
        page |= {"data": page["data"][:limit], "has_more": True}
    if as_json:
        print_json(page)
        return
    shown = _table_of_letters if each else _table_of_groups
    console().print(shown(page["data"]) if page["data"] else "no dead letters")
    if each:
        tell_of_more(page, limit)
    if not each and page["has_more"]:
        listed = sum(group["count"] for group in page["data"])
        typer.echo(
            f"and {page['total'] - listed:,} more letters in smaller groups; --limit lists more, --lane or --text fewer"
        )


@app.command()
def show(letter_id: LetterId, as_json: Json = False) -> None:
    """One dead letter: why it failed, what it carries, what was done with it."""
    from deploy.cli.client.gateway import ask

    letter = ask(lambda gateway: hinted(gateway, "dead letter", letter_id, lambda g: g.letter(letter_id)))
    if as_json:
        print_json(letter)
    else:
        _describe(letter)


@app.command()
@filtered
def replay(
    wanted: Body,
    ids: LetterIds = None,
    everything: Annotated[bool, typer.Option("--all", help="All that wait.")] = False,
    rate: Annotated[float, typer.Option(min=0.01, max=1000, help="Letters a second, at the most.")] = 50,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the end.")] = False,
    as_json: Json = False,
) -> None:
    """Send dead letters to the lanes that failed: first one, and when that went well, the rest.

    With --state SENT: what was sent before and had no outcome, once that replay has ended or was stopped.

    Ctrl-C leaves it to itself; `malote dlq stop` stops it. Exit status 1 if one of them failed again."""
    from deploy.cli.client.gateway import ask

    wish = _selection(ids, wanted, everything=everything) | {"rate": rate}
    if wanted.get("state") in ("DONE", "REPLACED"):
        raise Failed(f"nothing matches: what is {wanted['state']} is not sent again")
    _demand_some(ids, wanted, ("WAITING",))
    started = ask(lambda gateway: gateway.replay(wish))
    if not detach:
        started = follow(started, f"`malote dlq stop {started['job_id']}` stops it", is_silent=as_json)
    probed = started.get("error") or {}
    has_failed_first = probed.get("code") == "probe_failed"
    end_of_job(started, as_json, waited=not detach and not has_failed_first)
    if has_failed_first:
        raise Failed(_after_the_probe(probed))
    result = started.get("result") or {}
    if result and not as_json:
        typer.echo(f"sent   {result['sent']:,}, done {result['done']:,}, failed again {result['failed']:,}")
    if result.get("failed"):
        raise Failed(f"{result['failed']:,} failed again; `malote dlq list` says why")
    if result and not result["sent"]:
        raise Failed("nothing was sent: none of them waits any more, or their lanes are gone")


@app.command()
def stop(
    job_id: Annotated[UUID, typer.Argument(metavar="JOB_ID", show_default=False)],
    wait: Wait = 10,
    as_json: Json = False,
) -> None:
    """Stop a replay: what was not sent yet waits on."""
    from deploy.cli.client.gateway import ask

    end_of_job(ask(lambda gateway: gateway.cancel_job(job_id, wait=wait)), as_json, wait > 0)


@app.command()
def edit(
    letter_id: LetterId,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="As in customer.email=ana@example.com.")
    ] = None,
    body: Annotated[
        Path | None, typer.Option(metavar="FILE", exists=True, dir_okay=False, help="A whole new body, as JSON.")
    ] = None,
    message: Annotated[str | None, typer.Option(help="What it is, where nobody knows.")] = None,
    as_json: Json = False,
) -> None:
    """Send another message in a dead letter's place: as --set or --body say, or as $EDITOR leaves it."""
    from deploy.cli.client.gateway import ask

    letter = ask(lambda gateway: gateway.letter(letter_id))
    draft = None if set_ or body else _draft(letter)
    try:
        wish = {"body": _new_body(letter, set_ or [], body or draft)} | ({"message": message} if message else {})
        job = ask(lambda gateway: gateway.edit_letter(letter_id, wish, wait=_EDIT_WAIT))
        end_of_job(job, as_json, waited=True)
    except Failed as error:
        if not draft:
            raise
        raise type(error)(f"{error}; what you wrote is kept: mend it and try again with --body {draft}") from error
    if draft:
        draft.unlink()
    if not as_json:
        typer.echo(f"sent   message {job['result']['message_id']} to {job['result']['lane']}")


@app.command()
@filtered
def purge(
    wanted: Body,
    ids: LetterIds = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Remove dead letters for good. There is no --all: say what they have in common."""
    from deploy.cli.client.gateway import ask

    wish = _selection(ids, wanted, everything=False)
    number = _demand_some(ids, wanted, _STATES)
    if not yes:
        _demand_yes(number)
    job_ = follow(ask(lambda gateway: gateway.purge(wish)), is_silent=as_json)
    end_of_job(job_, as_json, waited=True)
    if not as_json:
        typer.echo(f"purged {job_['result']['purged']:,}")
    if not job_["result"]["purged"]:
        raise Failed("nothing was removed: what is on its way, or gone meanwhile, is left alone")


@app.command()
@filtered
def export(
    wanted: Body,
    output: Annotated[Path, typer.Option(metavar="FILE", help="Where to, when it is whole; - is stdout.")],
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

    _demand_known(wanted)
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


@app.command()
def actions(limit: Limit = 20, as_json: Json = False) -> None:
    """What was done with dead letters: by whom, when, and how it ended."""
    from deploy.cli.client.gateway import ask

    page = ask(lambda gateway: gateway.letter_actions(limit))
    if as_json:
        print_json(page)
        return
    columns = ("job", "at", "by~", "what", "status", ">letters", ">done", ">failed", "which~")
    console().print(table(columns, map(_action, page["data"])) if page["data"] else "nothing was done yet")
    tell_of_more(page, limit)


def changed(body: Any, path: str, text: str) -> Any:
    """A body with one value of it replaced: `lines.0.quantity=2`. A value is JSON, or else text."""
    first, _, rest = path.partition(".")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if isinstance(body, list):
        if not first.isdecimal() or int(first) >= len(body):
            raise typer.BadParameter(f"{first!r} is no place in a list of {len(body)}", param_hint="--set")
        place = int(first)
        return [*body[:place], changed(body[place], rest, text) if rest else value, *body[place + 1 :]]
    if not isinstance(body, dict):
        raise typer.BadParameter(f"there is nothing below {body!r}", param_hint="--set")
    if rest and first not in body:
        raise typer.BadParameter(f"the body has no {first!r}: {', '.join(body) or 'it is empty'}", param_hint="--set")
    return {**body, first: changed(body[first], rest, text) if rest else value}


def _new_body(letter: Body, assignments: list[str], file: Path | None) -> Any:
    body = letter["body"]
    if file:
        body = _json(file.read_text(encoding="utf-8"), str(file))
    for assignment in assignments:
        path, sign, value = assignment.partition("=")
        if not sign or not path:
            raise typer.BadParameter(f"{assignment!r} is not PATH=VALUE", param_hint="--set")
        body = changed(body, path, value)
    return body


def _draft(letter: Body) -> Path:
    """A file with the body as the editor left it; only its owner may read it."""
    if not sys.stdin.isatty():
        raise Failed("there is no terminal to edit on; say what to change with --set or --body")
    text = _text(letter)
    handle, name = tempfile.mkstemp(prefix=f"letter-{letter['id']}-", suffix=".json")
    file = Path(name)
    with open(handle, "w", encoding="utf-8") as begun:
        begun.write(text)
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        status = subprocess.call([*shlex.split(editor), str(file)])
    except OSError as error:
        file.unlink()
        raise Failed(f"{editor}: {error.strerror}; set EDITOR, or use --set or --body") from error
    if status or file.read_text(encoding="utf-8") == text:
        file.unlink()
        raise Failed("nothing was changed, so nothing is sent")
    return file


def _text(letter: Body) -> str:
    """A letter's body for people."""
    return letter["body"] if letter["encoding"] != "json" else json.dumps(letter["body"], indent=1, ensure_ascii=False)


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Failed(f"{what} is not JSON: {error}; nothing is sent") from error


def _demand_yes(number: int) -> None:
    if not sys.stdin.isatty():
        raise Failed(f"{number_of(number, 'letter')} would be gone for good; --yes says that this is meant")
    typer.confirm(f"Remove {number_of(number, 'letter')} for good?", abort=True, err=True)


def _demand_some(ids: list[UUID] | None, wanted: Body, states: Sequence[str]) -> int:
    """How many letters are meant. What is named by its id and is not, is said."""
    from deploy.cli.client.gateway import ask

    _demand_known(wanted)
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


def _demand_known(wanted: Body) -> None:
    """What is misspelt must not look as if all were well."""
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
    """A lane or a message that is no more, or never was, is known as long as there are letters of it."""
    from deploy.cli.client.gateway import ask

    async def is_there(gateway: Any) -> bool:
        totals = [await _total(gateway, {name: said, "state": state_}) for state_ in _STATES]
        return any(totals)

    if not ask(is_there):
        raise typer.BadParameter(
            f"there is no {name} {said!r}, and no letter of it; there are {', '.join(sorted(known))}",
            param_hint=f"--{name}",
        )


def _after_the_probe(error: Body) -> str:
    letter_id = error["letter_id"]
    return (
        f"the job ended as FAILURE (probe_failed): {error['detail']};"
        f" `malote dlq show {letter_id}` shows it, and `malote dlq replay --group GROUP` sends"
        " one group of `malote dlq list` at a time"
    )


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


def _selection(ids: list[UUID] | None, wanted: Body, *, everything: bool) -> Body:
    ways: list[Body] = [{"ids": [str(id_) for id_ in ids]}] if ids else []
    ways += [{"filter": wanted}] if wanted else []
    ways += [{"all": True}] if everything else []
    if len(ways) != 1:
        raise typer.BadParameter(
            "name letters by their ids, or by what they have in common (`--group` …): one of the two"
        )
    return ways[0]


def _table_of_groups(groups: list[Body]) -> Any:
    """One line a group; where the terminal is narrow, without what `--group` and `--json` say as well."""
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


def _which(wish: Body) -> str:
    """`lane stock, text COFFEE`, `letter …`, `12 letters`: what an action was about."""
    selection = wish.get("selection") or {}
    if selection.get("all"):
        return "all that wait"
    if len(ids := selection.get("ids") or []) > 1:
        return number_of(len(ids), "letter")
    said = {"letter": ids[0]} if ids else selection.get("filter") or wish
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
    body, encoding = _text(letter), letter["encoding"]
    how = "" if encoding == "json" else f" ({encoding}{'' if body else ', empty'})"
    out.print(f"\nbody{how}:\n{visible(body)}", markup=False, soft_wrap=True)
    if letter["traceback"]:
        out.print(f"\ntraceback:\n{visible(letter['traceback'].strip())}", markup=False, soft_wrap=True)
