"""A clock that can be set: Python imports this at its start where the folder is on PYTHONPATH.

The file CHAOS_CLOCK has the seconds by which the time of day is wrong. The monotonic clock stays right, as it does when
an administrator sets the other.
"""

import datetime
import os
import time
import uuid
from typing import Any

import uuid_utils.compat

_FILE = os.environ["CHAOS_CLOCK"]
_time_ns, _datetime, _uuid7 = time.time_ns, datetime.datetime, uuid_utils.compat.uuid7


def _offset() -> int:
    """Nanoseconds."""
    try:
        with open(_FILE) as file:
            return int(float(file.read() or 0) * 1e9)
    except FileNotFoundError:
        return 0


class _Kind(type):
    """What C code makes is of the original class, and is a datetime all the same."""

    def __instancecheck__(cls, other: object) -> bool:
        return isinstance(other, _datetime)

    def __subclasscheck__(cls, other: type) -> bool:
        return issubclass(other, _datetime)


class datetime_(_datetime, metaclass=_Kind):  # noqa: N801 - stands for datetime.datetime
    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return _datetime.fromtimestamp(time.time(), tz)


def _uuid7_of_then() -> uuid.UUID:
    """Its first 48 bits are milliseconds, and its maker asks the system itself."""
    return uuid.UUID(int=_uuid7().int + (_offset() // 1_000_000 << 80))


time.time_ns = lambda: _time_ns() + _offset()
time.time = lambda: time.time_ns() / 1e9
datetime.datetime = datetime_  # type: ignore[misc]
uuid_utils.compat.uuid7 = _uuid7_of_then
