"""Log lines: JSON for machines, readable on a terminal; every line carries the service and what is bound to it."""

import logging
import sys

import structlog

from shared.settings import ServiceSettings


def configure(settings: ServiceSettings) -> None:
    """Send everything, structlog's lines and the standard library's, through one chain to stdout."""
    readable = settings.log_format == "console" or (settings.log_format == "auto" and sys.stdout.isatty())
    chain: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    renderer: list[structlog.types.Processor] = (
        [structlog.dev.ConsoleRenderer(pad_event_to=32)]
        if readable
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*chain, _named_after_logger],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=settings.log_level, force=True)
    for chatty in ("aio_pika", "aiormq", "httpx", "httpcore", "alembic", "aiosqlite", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    logging.getLogger("aiormq.connection").setLevel(logging.CRITICAL)  # the kernel says itself that the broker is gone
    structlog.configure(
        processors=[*chain, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(settings.log_level)),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=settings.name)


def _named_after_logger(
    logger: logging.Logger, method: str, event: structlog.types.EventDict
) -> structlog.types.EventDict:
    event["logger"] = event["_record"].name
    return event
