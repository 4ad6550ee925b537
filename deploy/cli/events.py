"""malote events: prints each message when it is published.

The broker's tracing (the firehose) copies published messages to a queue of this command. A queue that is bound beside
the lanes would do the same, but would hide from senders that no lane consumes a message.
"""

import asyncio
import json
import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.cli.errors import Failed, NotRunning
from deploy.cli.output import Json, print_json, visible
from deploy.local.clock import zoned

if TYPE_CHECKING:
    from deploy.local.environment import Environment

app = typer.Typer()
_TRACE = "amq.rabbitmq.trace"
_HELD = 1_000  # messages; if they arrive faster than they are printed, the oldest are dropped
_FOR_US: dict[str, Any] = {"x-max-length": _HELD, "x-overflow": "drop-head"}
_LONGEST_BODY = 100_000


@app.command()
def events(
    key: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Only these, such as order.placed.v1 or order.#; more than one is fine."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until Ctrl-C: it always does.")] = True,
    limit: Annotated[
        int | None, typer.Option(min=0, help="End after so many. 0 only ends what a killed `malote events` left on.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Messages as they pass, until Ctrl-C: all that are published, also to retry queues and dead letters.

    It needs the broker's administrator (AMQP_URL, or this machine's own). While it runs the broker copies each message,
    which costs it some speed; the copies wait in a queue of 1,000 that ends with the command. --json: with bodies."""
    import aio_pika.exceptions
    import httpx

    from deploy.local.environment import Environment
    from shared.config.urls import places_in

    here = Environment()
    with suppress(KeyboardInterrupt):
        try:
            asyncio.run(_follow(here, key or [], limit, as_json))
        except (OSError, httpx.TransportError) as error:
            where = places_in(here.amqp_url)
            raise NotRunning(f"no broker at {where} ({type(error).__name__}); `malote up` starts one") from error
        except (httpx.HTTPStatusError, aio_pika.exceptions.AMQPError) as error:
            raise Failed(f"the broker refuses ({type(error).__name__}); is AMQP_URL an administrator's?") from error


async def _follow(here: "Environment", keys: list[str], limit: int | None, as_json: bool) -> None:
    from deploy.local.management import Management
    from shared.messaging.amqp.connections import connect

    wanted = re.compile("|".join(map(_pattern, keys)) or ".*")
    with Management(here) as api:
        try:
            async with await connect(here.amqp_url, here.tls_of()) as connection:
                channel = await connection.channel()
                queue = await channel.declare_queue(exclusive=True, auto_delete=True, arguments=_FOR_US)
                await queue.bind(_TRACE, "publish.#")
                await asyncio.to_thread(api.trace, True)
                if limit != 0:
                    await _show(queue, wanted, limit, as_json)
        finally:
            if not api.bound_to(_TRACE):  # another `malote events` may be running
                api.trace(False)


async def _show(queue: Any, wanted: re.Pattern[str], limit: int | None, as_json: bool) -> None:
    shown = 0
    async with queue.iterator(no_ack=True) as messages:
        async for message in messages:
            event = read(message.headers, message.body)
            if not wanted.fullmatch(event["key"]) and not wanted.fullmatch(event["type"] or ""):
                continue
            if as_json:
                print_json(event, indent=None)
            else:
                typer.echo(line(event))
            shown += 1
            if shown == limit:
                return


def _pattern(key: str) -> str:
    """A topic's pattern as a regular expression: `*` is one word, `#` any number of them."""
    words = {"*": r"[^.]+", "#": r".*"}
    return r"\.".join(words.get(word, re.escape(word)) for word in key.split(".")).replace(r"\..*", r"(\..*)?")


def read(headers: dict[str, Any], body: bytes) -> dict[str, Any]:
    """A copy from the tracing: exchange, routing key, user, and the message."""
    properties = headers.get("properties") or {}
    about = properties.get("headers") or {}
    routed = headers.get("routing_keys") or [""]
    return {
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "exchange": headers.get("exchange_name", ""),
        "key": str(routed[0]),
        "type": properties.get("type"),
        "message_id": properties.get("message_id"),
        "correlation_id": properties.get("correlation_id"),
        "user": headers.get("user"),
        "attempt": about.get("attempt"),
        "reason": about.get("failure_message") or about.get("failure_reason"),
        "body": _body(body),
    }


def _body(body: bytes) -> Any:
    text = body[:_LONGEST_BODY].decode(errors="replace")
    if len(body) > _LONGEST_BODY:
        return f"{text}… ({len(body):,} bytes)"
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def line(event: dict[str, Any]) -> str:
    """A line for people: time, message, ids; for a failed message, where it waits and why."""
    from contracts.broker import DEAD_LETTERS  # with pydantic, which is slow to import

    moment = datetime.fromisoformat(event["at"]).astimezone()
    clock = zoned(moment, f"%H:%M:%S.{moment.microsecond // 1000:03}")
    body = event["body"] if isinstance(event["body"], dict) else {}
    about = body.get("order_id") or event["correlation_id"] or event["message_id"] or ""
    is_failure = event["exchange"] == DEAD_LETTERS or event["exchange"].startswith("retry.")
    name = (event["type"] or event["key"]) if is_failure else event["key"]
    failed = f"  {event['key']} → {event['exchange']}: {event['reason']}" if is_failure else ""
    return visible(f"{clock}  {name:<26} {about}{failed}")
