"""malote lanes: the backlog of each lane, its delay, and whether it works."""

import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import typer

from deploy.cli.errors import Failed, NotRunning
from deploy.cli.output import Json, console, number_of, plain, print_json, table

if TYPE_CHECKING:
    from deploy.local.environment import Environment
    from deploy.local.readiness import Readiness

app = typer.Typer()
_SAMPLE = re.compile(r"(malote_\w+)\{([^}]*)\} (\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')
Samples = dict[str, dict[str, float]]


@app.command()
def lanes(as_json: Json = False) -> None:
    """Each lane: messages in its queue, how old the oldest in hand is, how many wait to be tried again, its dead
    letters, its consumers, and whether it is paused. Exit status 1 if one is paused or has no consumer."""
    from deploy.local.environment import Environment

    here = Environment()
    found = look(here)
    if as_json:
        print_json({"data": found["lanes"], "waiting": found["waiting"]})
    else:
        _show(found)
    if any(lane["paused"] or not lane["consumers"] for lane in found["lanes"]):
        raise typer.Exit(1)


def look(here: "Environment") -> dict[str, Any]:
    """The broker's figures of queues, and each service's figures of its lanes. Raises `NotRunning` without a broker."""
    import httpx

    from contracts.broker import queue_of, waiting_queue
    from contracts.flow import LANES, SERVICES, service_of
    from deploy.local.management import Management
    from deploy.local.readiness import readiness

    with ThreadPoolExecutor(max_workers=2 * len(SERVICES)) as pool:
        asked = {name: pool.submit(readiness, here.health_of(name)) for name in SERVICES}
        measured = {name: pool.submit(_measures, here.health_of(name)) for name in SERVICES}
        try:
            with Management(here) as api:
                queues = api.queues()
        except httpx.HTTPStatusError as error:
            raise Failed(f"the broker's management API says {error.response.status_code}; `malote doctor`") from error
        except httpx.HTTPError as error:
            why = f"the broker's management API does not answer ({type(error).__name__})"
            raise NotRunning(f"{why}; `malote doctor` says what is wrong") from error
        said = {name: answer.result() for name, answer in asked.items()}
        measures = {name: samples.result() for name, samples in measured.items()}
    dead = measures.get("deadletters", {}).get("malote_dead_letters", {})
    lanes_ = []
    for lane in LANES:
        queue = queues.get(queue_of(lane), {})
        own = measures[service_of(lane)]
        lanes_.append(
            {
                "lane": lane,
                "depth": queue.get("messages", 0),
                "in_hand": queue.get("messages_unacknowledged", 0),
                "oldest_seconds": own.get("malote_lane_oldest_seconds", {}).get(lane),
                "retrying": _whole(own.get("malote_lane_retrying", {}).get(lane)),
                "dead_letters": _whole(dead.get(lane)),
                "consumers": queue.get("consumers", 0),
                **_state(lane, said[service_of(lane)]),
            }
        )
    steps = {name: queues.get(name, {}).get("messages", 0) for name in map(waiting_queue, here.retry_ladder)}
    return {"lanes": lanes_, "waiting": {name: number for name, number in steps.items() if number}}


def _state(lane: str, said: "Readiness") -> dict[str, str | None]:
    paused = said.problems.get(f"lane {lane}") or said.silence or None
    return {"paused": paused, "warning": said.warnings.get(f"lane {lane}")}


def _measures(url: str) -> Samples:
    """A service's metrics of lanes, by name and lane; empty if the service does not answer."""
    import httpx

    found: Samples = defaultdict(dict)
    try:
        text = httpx.get(f"{url}/metrics", timeout=3, trust_env=False).text
    except httpx.HTTPError:
        return found
    for name, labels, value in _SAMPLE.findall(text):
        about = dict(_LABEL.findall(labels))
        if name.startswith(("malote_lane_", "malote_dead_letters")) and "lane" in about:
            found[name][about["lane"]] = float(value)
    return found


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _show(found: dict[str, Any]) -> None:
    columns = ("lane", ">depth", ">oldest", ">retrying", ">dead", ">consumers", "state")
    console().print(table(columns, map(_row, found["lanes"])))
    for lane in found["lanes"]:
        for colour, why in (("red", lane["paused"]), ("yellow", lane["warning"])):
            if why:
                console().print(f"[{colour}]{lane['lane']}[/]: {plain(why)}")
    if waiting := found["waiting"]:
        total = number_of(sum(waiting.values()), "message")
        steps = ", ".join(f"{number:,} in {name}" for name, number in waiting.items())
        typer.echo(f"{total} to be tried again later: {steps}")


def _row(lane: dict[str, Any]) -> tuple[str, ...]:
    oldest = "?" if lane["oldest_seconds"] is None else age(lane["oldest_seconds"])
    state = "[red]paused[/]" if lane["paused"] else "[yellow]look[/]" if lane["warning"] else "[green]ok[/]"
    numbers = [lane["depth"], oldest, lane["retrying"], lane["dead_letters"], lane["consumers"]]
    return lane["lane"], *("?" if n is None else n if isinstance(n, str) else f"{n:,}" for n in numbers), state


def age(seconds: float) -> str:
    """A rounded time: `0 s`, `4 min`, `3 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
