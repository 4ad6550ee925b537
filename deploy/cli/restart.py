"""malote restart: one part of this machine's fleet ends and is started again."""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.cli import status
from deploy.cli.errors import Failed, NotRunning
from deploy.cli.output import Json, console, plain, print_json, visible
from deploy.local import fleet, ports, processes

if TYPE_CHECKING:
    from deploy.local.environment import Environment

app = typer.Typer()
_BACK_SECONDS = 90.0


@app.command()
def restart(
    name: Annotated[
        str,
        typer.Argument(
            metavar="SERVICE",
            show_default=False,
            help="A service, a further replica of one (stock-1), `broker`, `mail` or `watch`.",
        ),
    ],
    as_json: Json = False,
) -> None:
    """End one part of this machine's fleet and wait until it is back. Nothing is lost: what it has in hand is finished,
    or done again."""
    here = status.checked()
    if not fleet.running(here):
        raise NotRunning("nothing is running; `malote up` starts it")
    before = _pids(here)
    if name not in before:
        raise typer.BadParameter(f"there is no {name!r}: {', '.join(sorted(before))} are there", param_hint="SERVICE")
    if not as_json:
        typer.echo(f"restarting {name}", err=True)
    began, awaited = time.monotonic(), ""
    with _progress(as_json) as report:
        _end(before[name], lambda how: report(f"{name}: {how}"))

        def is_back() -> bool:
            nonlocal awaited
            if awaited := _awaited(here, name, before[name]):
                report(f"{name}: {awaited}")
            return not awaited

        if not processes.until(is_back, _BACK_SECONDS):
            raise Failed(f"{name} is not back after {_BACK_SECONDS:g} s: {awaited}; `malote doctor` says what is wrong")
    after = _pids(here)[name]
    if as_json:
        print_json({"name": name, "pid": after, "before": before[name]})
    else:
        typer.echo(f"{name} is back after {time.monotonic() - began:.0f} s (pid {after})")


@contextlib.contextmanager
def _progress(is_silent: bool) -> Iterator[Callable[[str], None]]:
    """Shows the progress: on a terminal one line that changes, elsewhere a line for each change."""
    if is_silent:
        yield lambda _: None
    elif sys.stdout.isatty():
        with console().status("") as line:
            yield lambda text: line.update(plain(text))
    else:
        reported = ""

        def report(text: str) -> None:
            nonlocal reported
            if text != reported:
                typer.echo(visible(text))
            reported = text

        yield report


def _pids(here: "Environment") -> dict[str, int]:
    """The process of each part; 0 where the supervisor is about to start one."""
    state = here.state()
    entries = [*state.get("services", []), *filter(None, [state.get("mail"), state.get("watch")])]
    found: dict[str, Any] = {entry["name"]: entry["pid"] for entry in entries}
    return found | ({"broker": state["broker"]} if state.get("broker") else {})


def _end(pid: int, report: Callable[[str], None]) -> None:
    """End a process by SIGTERM; by SIGKILL if it does not end in the grace time, or is stopped and cannot obey."""
    if not pid:
        return
    if not processes.is_stopped(pid):
        report(f"waits until pid {pid} has ended, which finishes what it has in hand, for {fleet.GRACE:g} s at most")
        processes.signal_group(pid, signal.SIGTERM)
        if processes.until(lambda: not processes.command_line(pid), fleet.GRACE):
            return
    report(f"kills pid {pid}, which does not end")
    processes.signal_group(pid, signal.SIGKILL)


def _awaited(here: "Environment", name: str, before: int) -> str:
    """The reason to wait longer; empty once the part is back."""
    from deploy.local.readiness import readiness

    now = _pids(here).get(name, 0)
    if now in (0, before):
        return "waits until the supervisor has started it again"
    if name in ("broker", "watch"):  # the supervisor stores the new pid once the broker answers
        return ""
    if name == "mail":
        return "" if ports.accepts(here.smtp_port) else f"pid {now} runs; waits until it answers"
    answer = readiness(here.address_of(name))
    if answer.is_ready:
        return ""
    missing = "; ".join(f"{part}: {why}" for part, why in answer.problems.items())
    return f"pid {now} runs; waits until it {f'is ready ({missing})' if missing else 'answers'}"
