"""What the bodies of several subjects share."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict

from contracts.base import AwareDatetime

ORDER_ID = "01985b7e-6f4a-7c3e-9d1f-0a2b3c4d5e6f"
JOB_ID = "01985b7e-6f4a-7c3e-9d1f-0a2b3c4d5e70"
AT = datetime(2026, 11, 2, 14, 30, tzinfo=UTC).isoformat()


def example(**fields: Any) -> ConfigDict:
    """A body for the documentation, ready to be sent."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


def _is_text(value: object) -> object:
    if isinstance(value, int | float):
        raise ValueError("write a time as text, such as 2026-11-02T14:30:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_is_text)]
"""A time that a client sends. A number is refused: it could be seconds or milliseconds."""
