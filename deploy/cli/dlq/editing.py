"""Sending another message in a dead letter's place."""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.cli.dlq.looking import text_of
from deploy.cli.dlq.selecting import Body, LetterId
from deploy.cli.errors import Failed
from deploy.cli.output import Json, end_of_job

_EDIT_WAIT = 10


def edit(
    letter_id: LetterId,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="As in customer.email=ana@example.com.")
    ] = None,
    body: Annotated[
        Path | None, typer.Option(metavar="FILE", exists=True, dir_okay=False, help="A whole new body, as JSON.")
    ] = None,
    message: Annotated[str | None, typer.Option(help="The name of the message, if the letter has none.")] = None,
    as_json: Json = False,
) -> None:
    """Send another message in a dead letter's place: as --set or --body say, or as $EDITOR leaves it."""
    from deploy.cli.client.gateway import ask

    letter = ask(lambda gateway: gateway.letter(letter_id))
    draft = None if set_ or body else _draft(letter)
    try:
        request = {"body": _new_body(letter, set_ or [], body or draft)} | ({"message": message} if message else {})
        job = ask(lambda gateway: gateway.edit_letter(letter_id, request, wait=_EDIT_WAIT))
        end_of_job(job, as_json, waited=True)
    except Failed as error:
        if not draft:
            raise
        raise type(error)(f"{error}; what you wrote is kept: mend it and try again with --body {draft}") from error
    if draft:
        draft.unlink()
    if not as_json:
        typer.echo(f"sent   message {job['result']['message_id']} to {job['result']['lane']}")


def changed(body: Any, path: str, text: str) -> Any:
    """A body with one value replaced: `lines.0.quantity=2`. A value that is no JSON is text."""
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
    """A file with the edited body, which only its owner may read. Raises `Failed` if nothing was changed."""
    if not sys.stdin.isatty():
        raise Failed("there is no terminal to edit on; say what to change with --set or --body")
    text = text_of(letter)
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


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Failed(f"{what} is not JSON: {error}; nothing is sent") from error
