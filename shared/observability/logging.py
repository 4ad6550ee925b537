"""Log lines: JSON for machines, readable on a terminal. Every line has the service and the ids of its subject.

In all services, a line about an order has the id of the order's job as `correlation_id`, by which `malote logs` finds
it. Mail addresses and logins in the errors of other systems are masked.
"""

import json
import logging
import re
import sys
from contextlib import suppress
from typing import Any, cast

import orjson
import structlog

from shared.config.settings import ServiceSettings
from shared.observability import tracing

_ADDRESS = re.compile(r"[^\s@<>:/\"'(),;=]+@(?=[\w.\[-])")


class Unfailing:
    """A file that ignores failed writes: a full disk must not stop the work that a line is about."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, line: Any) -> int:
        with suppress(OSError):
            self._file.write(line)
        return len(line)

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()


def configure(settings: ServiceSettings) -> None:
    """Write all lines to stdout in one form: those of structlog directly, those of the standard library by its
    handler."""
    readable = settings.log_format == "console" or (settings.log_format == "auto" and sys.stdout.isatty())
    chain: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _about_message,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _in_order,
    ]
    renderer: list[Any] = [
        structlog.processors.format_exc_info,
        _without_addresses,
        structlog.dev.ConsoleRenderer(pad_event_to=32, exception_formatter=structlog.dev.plain_traceback)
        if readable
        else structlog.processors.JSONRenderer(serializer=_json),
    ]
    structlog.configure(
        processors=[*chain, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(settings.log_level)),
        # Not through the standard library, by which a line takes three times as long.
        logger_factory=structlog.PrintLoggerFactory(cast(Any, Unfailing(sys.stdout)))
        if readable
        else structlog.BytesLoggerFactory(cast(Any, Unfailing(sys.stdout.buffer))),
        cache_logger_on_first_use=True,
    )
    _configure_standard_library(settings.log_level, [*chain, _named_after_logger], renderer)
    structlog.contextvars.bind_contextvars(service=settings.name)


def _configure_standard_library(level: str, chain: list[Any], renderer: list[Any]) -> None:
    processors = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer, _as_text]
    handler = logging.StreamHandler(Unfailing(sys.stdout))
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=chain, processors=processors))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for chatty in ("aio_pika", "aiormq", "httpx", "httpcore", "alembic", "aiosqlite", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    logging.getLogger("aiormq.connection").setLevel(logging.CRITICAL)  # the kernel logs itself that the broker is gone


def _about_message(logger: Any, method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Add the ids of the message that is being handled, unless the line has ids of its own."""
    if (envelope := tracing.in_hand.get()) and "message_id" not in event:
        event["message_id"], event["correlation_id"] = envelope.message_id, envelope.correlation_id
    if "trace_id" not in event and (trace_id := tracing.trace_id()):
        event["trace_id"] = trace_id
    return event


def _without_addresses(logger: Any, method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """`ana@example.com` -> `***@example.com` in warnings and errors, whose texts may come from other systems."""
    if event.get("level") not in ("info", "debug"):
        for name, value in event.items():
            if isinstance(value, str) and "@" in value:
                event[name] = _ADDRESS.sub("***@", value)
    return event


def _in_order(logger: Any, method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Put the time first, so that lines of several files can be sorted as text."""
    first = {name: event.pop(name) for name in ("timestamp", "level", "service", "event") if name in event}
    return first | dict(event)


def _named_after_logger(
    logger: logging.Logger, method: str, event: structlog.types.EventDict
) -> structlog.types.EventDict:
    event["logger"] = event["_record"].name
    return event


def _json(line: Any, **how: Any) -> bytes:
    """A line as JSON. It never fails, although orjson refuses halves of surrogate pairs and huge numbers."""
    try:
        return orjson.dumps(line, **how)
    except TypeError:
        return json.dumps(line, default=repr).encode()


def _as_text(logger: Any, method: str, line: Any) -> str:
    return line.decode() if isinstance(line, bytes) else str(line)
