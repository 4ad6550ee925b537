"""Log lines: JSON for machines, readable on a terminal; every line carries the service and what it is about.

What is about an order carries its job's id as `correlation_id`, in all services: `malote logs` finds it by that. Mail
addresses and logins, which are in the texts of other systems' errors, do not get into a line.
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
    """A file that a line is written to if there is room: a full disk must not fail what the line is about."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, line: Any) -> int:
        with suppress(OSError):
            self._file.write(line)
        return len(line)

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()


class LostChannels(logging.Filter):
    """A connection that is lost while the process stands still: of each of its channels aio-pika tells, as an error,
    the address of a function that failed. It opens them again, so that is one line, and for people."""

    again_after = 10.0
    """Seconds: within these, all is of one connection, or of those that were lost together."""

    def __init__(self) -> None:
        super().__init__()
        self._told_at = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is to be told."""
        if "RobustChannel._on_close" not in repr(record.args):
            return True
        if record.created - self._told_at < self.again_after:
            return False
        self._told_at = record.created
        record.msg, record.args = "the connection to the broker was lost; it is opened again", ()
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


def configure(settings: ServiceSettings) -> None:
    """Send everything to stdout in one form: our own lines directly, the standard library's through its handler."""
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
        # Not through the standard library: a line for every message costs a third this way.
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
    channels = logging.getLogger("aio_pika.tools")
    channels.filters[:] = [LostChannels()]
    logging.getLogger("aiormq.connection").setLevel(logging.CRITICAL)  # the kernel says itself that the broker is gone


def _about_message(logger: Any, method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """The ids of the message in hand, if there is one and the line does not say itself what it is about."""
    if (envelope := tracing.in_hand.get()) and "message_id" not in event:
        event["message_id"], event["correlation_id"] = envelope.message_id, envelope.correlation_id
    if "trace_id" not in event and (trace_id := tracing.trace_id()):
        event["trace_id"] = trace_id
    return event


def _without_addresses(logger: Any, method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """`ana@example.com` -> `***@example.com`, where texts come from elsewhere: in warnings and errors."""
    if event.get("level") not in ("info", "debug"):
        for name, value in event.items():
            if isinstance(value, str) and "@" in value:
                event[name] = _ADDRESS.sub("***@", value)
    return event


def _in_order(logger: Any, method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """The time first: lines of several files can then be sorted as they are."""
    first = {name: event.pop(name) for name in ("timestamp", "level", "service", "event") if name in event}
    return first | dict(event)


def _named_after_logger(
    logger: logging.Logger, method: str, event: structlog.types.EventDict
) -> structlog.types.EventDict:
    event["logger"] = event["_record"].name
    return event


def _json(line: Any, **how: Any) -> bytes:
    """A line must never fail for what is in it: orjson refuses halves of surrogate pairs and huge numbers."""
    try:
        return orjson.dumps(line, **how)
    except TypeError:
        return json.dumps(line, default=repr).encode()


def _as_text(logger: Any, method: str, line: Any) -> str:
    return line.decode() if isinstance(line, bytes) else str(line)
