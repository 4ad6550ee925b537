"""malote restart: one part of this machine's fleet ends and is started again."""

import signal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.cli import status
from deploy.cli.errors import Failed, NotRunning
from deploy.cli.output import Json, print_json
from deploy.local import fleet, ports, processes

if TYPE_CHECKING:
    from deploy.local.environment import Environment

app = typer.Typer()
_BACK_SECONDS = 90.0


@app.command()
def restart(
    name: Annotated[str, typer.Argument(metavar="SERVICE", show_default=False, help="A service, `broker` or `mail`.")],
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
    _end(before[name])
    if not processes.until(lambda: _is_back(here, name, before[name]), _BACK_SECONDS):
        raise Failed(f"{name} is not back after {_BACK_SECONDS:g} s; `malote doctor` says what is wrong")
    after = _pids(here)[name]
    if as_json:
        print_json({"name": name, "pid": after, "before": before[name]})
    else:
        typer.echo(f"{name} is back (pid {after})")


def _pids(here: "Environment") -> dict[str, int]:
    """The process of each part; 0 where the supervisor is about to start one."""
    state = here.state()
    entries = [*state.get("services", []), *filter(None, [state.get("mail")])]
    found: dict[str, Any] = {entry["name"]: entry["pid"] for entry in entries}
    return found | ({"broker": state["broker"]} if state.get("broker") else {})


def _end(pid: int) -> None:
    """SIGTERM; SIGKILL for what does not end in the grace time, or stands still and would not hear of it."""
    if not pid:
        return
    if not processes.is_stopped(pid):
        processes.signal_group(pid, signal.SIGTERM)
        if processes.until(lambda: not processes.command_line(pid), fleet.GRACE):
            return
    processes.signal_group(pid, signal.SIGKILL)


def _is_back(here: "Environment", name: str, before: int) -> bool:
    from deploy.local.readiness import readiness

    now = _pids(here).get(name, 0)
    if now in (0, before):
        return False
    if name == "broker":  # the supervisor writes its new pid down once it answers
        return True
    if name == "mail":
        return ports.accepts(here.smtp_port)
    return readiness(here.address_of(name)).is_ready
