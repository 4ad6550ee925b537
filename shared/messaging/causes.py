"""An error's cause in words for whoever operates this: in `/readyz`, in log lines, and so in `malote status`."""

import asyncio

from aiormq.exceptions import AMQPError

from shared.persistence.database import Outage

_IN_SENTENCES = (Outage, AMQPError, OSError)


def cause_of(error: BaseException) -> str:
    """What happened, in one line that is never empty. Only of an error that nobody expects the type is named."""
    if isinstance(error, asyncio.CancelledError):  # nobody cancelled it: it ended with the connection that it was for
        inner = next((arg for arg in error.args if isinstance(arg, BaseException)), None)
        return cause_of(inner) if inner else "the connection was lost"
    words = str(error)
    if isinstance(error, TimeoutError):
        words = words or "no answer in time"
    elif isinstance(error, AMQPError):
        words = " ".join(map(str, error.args)) or "the connection to the broker was lost"
    elif isinstance(error, OSError):
        words = ": ".join(str(part) for part in (error.strerror or words, error.filename) if part)
    line, name = words.strip().partition("\n")[0], type(error).__name__
    if not line:
        return name
    return line if isinstance(error, _IN_SENTENCES) else f"{name}: {line}"


def is_cancelled(error: BaseException) -> bool:
    """Whether this task itself was told to end; what it waits for, such as a dying channel, can be cancelled too."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and bool(task and task.cancelling())


def one_line(text: str) -> str:
    """A text from anywhere as one line of at most 500 printable characters; it can come out empty."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:500]
