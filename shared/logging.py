"""Log lines: JSON for machines, readable on a terminal; every line carries the service and what is bound to it."""

import logging
import sys
from typing import Any

import orjson
import structlog

from shared.settings import ServiceSettings


def configure(settings: ServiceSettings) -> None:
    """Send everything to stdout in one form: our own lines directly, the standard library's through its handler."""
    readable = settings.log_format == "console" or (settings.log_format == "auto" and sys.stdout.isatty())
    chain: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _in_order,
    ]
    renderer: list[Any] = (
        [structlog.dev.ConsoleRenderer(pad_event_to=32, exception_formatter=structlog.dev.plain_traceback)]
        if readable
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=orjson.dumps)]
    )
    structlog.configure(
        processors=[*chain, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(settings.log_level)),
        # Not through the standard library: a line for every message costs a third this way.
        logger_factory=structlog.PrintLoggerFactory() if readable else structlog.BytesLoggerFactory(sys.stdout.buffer),
        cache_logger_on_first_use=True,
    )
    _configure_standard_library(settings.log_level, [*chain, _named_after_logger], renderer)
    structlog.contextvars.bind_contextvars(service=settings.name)


def _configure_standard_library(level: str, chain: list[Any], renderer: list[Any]) -> None:
    processors = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer, _as_text]
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=chain, processors=processors))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for chatty in ("aio_pika", "aiormq", "httpx", "httpcore", "alembic", "aiosqlite", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    logging.getLogger("aiormq.connection").setLevel(logging.CRITICAL)  # the kernel says itself that the broker is gone


def _in_order(logger: Any, method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """The time first: lines of several files can then be sorted as they are."""
    first = {name: event.pop(name) for name in ("timestamp", "level", "service", "event") if name in event}
    return first | dict(event)


def _named_after_logger(
    logger: logging.Logger, method: str, event: structlog.types.EventDict
) -> structlog.types.EventDict:
    event["logger"] = event["_record"].name
    return event


def _as_text(logger: Any, method: str, line: Any) -> str:
    return line.decode() if isinstance(line, bytes) else str(line)
