"""What all tests share: real servers (`tests.servers`) and services running on them (`tests.running`)."""

import structlog

pytest_plugins = ["tests.running", "tests.servers"]

# Unless told otherwise, it draws every traceback with all its variables where rich is installed: seconds for each.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)
