"""What a sender puts into a message's properties cannot end our connection.

The broker passes on properties that pamqp refuses: a timestamp beyond the year 9999, a short string that is not UTF-8.
pamqp raises where the connection is read, so the connection would end, the message come again, and so on until
its delivery limit, with all its neighbours. Instead the message arrives without properties and says what was wrong.
"""

from collections.abc import Mapping
from typing import Any

from pamqp.commands import Basic
from pamqp.header import ContentHeader

_PROBLEM = "malote-unreadable"
_unmarshal = ContentHeader.unmarshal


def problem_of(headers: Mapping[str, Any]) -> str | None:
    """What made a message's properties unreadable; None if they are as they were sent."""
    problem = headers.get(_PROBLEM)
    return str(problem) if problem else None


def _unmarshal_whatever_comes(header: ContentHeader, data: bytes) -> None:
    try:
        _unmarshal(header, data)
    except Exception as error:
        header.body_size = int.from_bytes(data[4:12], "big")
        header.properties = Basic.Properties(headers={_PROBLEM: str(error) or type(error).__name__})


ContentHeader.unmarshal = _unmarshal_whatever_comes  # type: ignore[method-assign,assignment]
