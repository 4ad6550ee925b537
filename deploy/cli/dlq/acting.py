"""Sending dead letters again, and removing them."""

import sys
from typing import Annotated
from uuid import UUID

import typer

from deploy.cli.dlq.selecting import STATES, Body, LetterIds, demand_some, filtered, selection
from deploy.cli.errors import Failed
from deploy.cli.following import follow
from deploy.cli.output import Json, Wait, end_of_job, number_of


@filtered
def replay(
    wanted: Body,
    ids: LetterIds = None,
    everything: Annotated[bool, typer.Option("--all", help="All that wait.")] = False,
    rate: Annotated[float, typer.Option(min=0.01, max=1000, help="The most letters a second.")] = 50,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the end.")] = False,
    as_json: Json = False,
) -> None:
    """Send dead letters to the lanes that failed: first one, and when that went well, the rest.

    With --state SENT: what was sent before and had no outcome, once that replay has ended or was stopped.

    Ctrl-C leaves it to itself; `malote dlq stop` stops it. Exit status 1 if one of them failed again."""
    from deploy.cli.client.gateway import ask

    request = selection(ids, wanted, everything=everything) | {"rate": rate}
    if wanted.get("state") in ("DONE", "REPLACED"):
        raise Failed(f"nothing matches: what is {wanted['state']} is not sent again")
    demand_some(ids, wanted, ("WAITING",))
    started = ask(lambda gateway: gateway.replay(request))
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


def _after_the_probe(error: Body) -> str:
    letter_id = error["letter_id"]
    return (
        f"the job ended as FAILURE (probe_failed): {error['detail']};"
        f" `malote dlq show {letter_id}` shows it, and `malote dlq replay --group GROUP` sends"
        " one group of `malote dlq list` at a time"
    )


def stop(
    job_id: Annotated[UUID, typer.Argument(metavar="JOB_ID", show_default=False)],
    wait: Wait = 10,
    as_json: Json = False,
) -> None:
    """Stop a replay: what was not sent yet waits on."""
    from deploy.cli.client.gateway import ask

    end_of_job(ask(lambda gateway: gateway.cancel_job(job_id, wait=wait)), as_json, wait > 0)


@filtered
def purge(
    wanted: Body,
    ids: LetterIds = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Remove dead letters for good. There is no --all: say what they have in common."""
    from deploy.cli.client.gateway import ask

    request = selection(ids, wanted, everything=False)
    number = demand_some(ids, wanted, STATES)
    if not yes:
        _demand_yes(number)
    job_ = follow(ask(lambda gateway: gateway.purge(request)), is_silent=as_json)
    end_of_job(job_, as_json, waited=True)
    if not as_json:
        typer.echo(f"purged {job_['result']['purged']:,}")
    if not job_["result"]["purged"]:
        raise Failed("nothing was removed: what is on its way, or gone meanwhile, is left alone")


def _demand_yes(number: int) -> None:
    if not sys.stdin.isatty():
        raise Failed(f"{number_of(number, 'letter')} would be gone for good; --yes says that this is meant")
    typer.confirm(f"Remove {number_of(number, 'letter')} for good?", abort=True, err=True)
