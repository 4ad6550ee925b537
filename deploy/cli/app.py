"""The command `malote`. Each command loads its own slow imports, so that help is printed at once."""

import logging
import os
import signal
import sys

import typer

from deploy.cli import (
    asyncapi,
    demo,
    dlq,
    events,
    jobs,
    lanes,
    logs,
    mail,
    migrate,
    notifications,
    openapi,
    orders,
    populate,
    processes,
    products,
    reports,
    restart,
    status,
    token,
    topology,
    up,
)
from deploy.cli.errors import Failed
from deploy.cli.output import visible

_STATUSES = """\b
Exit status:
   0  it worked
   1  it failed, something is not ready, or the order did not end as hoped
   2  the command line is wrong
   3  nothing is running at that address
   4  the gateway refused (its answer was a 4xx)
  78  a setting is wrong; the variable is named"""

app = typer.Typer(
    help="Run a Malote on this machine, and use one anywhere (MALOTE_GATEWAY_URL, MALOTE_TOKEN).",
    epilog=_STATUSES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for single in (up, status, restart, lanes, events, demo, logs, populate, migrate, openapi, asyncapi):
    app.add_typer(single.app)
app.add_typer(orders.app, name="orders", help="Place, show, list and cancel orders.")
app.add_typer(jobs.app, name="jobs", help="Jobs of requests: show, list, watch live, cancel.")
app.add_typer(reports.app, name="reports", help="Exports of orders, lines and movements; sales summaries.")
app.add_typer(notifications.app, name="notifications", help="News about reports, and how to be notified.")
app.add_typer(products.app, name="products", help="The catalogue.")
app.add_typer(products.stock, name="stock", help="The levels.")
app.add_typer(processes.app, name="processes", help="Which processes of services live, and how fast each answers.")
app.add_typer(dlq.app, name="dlq", help="Dead letters: look, send again, edit, purge, export.")
app.add_typer(token.app, name="token", help="A token for this machine; `revoke` ends one early.")
app.add_typer(mail.app, name="mail", help="The local mailbox.")
app.add_typer(topology.app, name="topology", help="Exchanges, queues, users and permissions on the broker.")


def main() -> None:
    """Run a command. An error is one line on stderr that says what to do next."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    logging.basicConfig(handlers=[logging.NullHandler()])  # warnings of libraries are not for the terminal
    try:
        app(prog_name="malote")
    except Failed as error:
        _end(str(error), error.status)
    except BrokenPipeError:  # `malote … | head`: the rest of the output has no reader
        _drop_the_rest()
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        from deploy.local.environment import Misconfigured

        if isinstance(error, Misconfigured):
            _end(str(error), 78)
        if os.environ.get("MALOTE_LOG_LEVEL") == "DEBUG":
            raise
        what = str(error) or type(error).__name__
        _end(f"unexpected: {type(error).__name__}: {what}; MALOTE_LOG_LEVEL=DEBUG shows where", 1)


def _drop_the_rest() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(line: str, status: int) -> None:
    print(f"malote: {visible(line)}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
