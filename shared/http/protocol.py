"""Ids in paths and idempotency keys, which every service reads in the same way."""

import re
from typing import Annotated
from uuid import UUID

from fastapi import Header, Path
from pydantic import BeforeValidator
from starlette.convertors import StringConvertor, register_url_convertor

from shared.http.problems import Problem

LONGEST_KEY = 255
_NAMED = re.compile(r"{(\w+_id)}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r'^("[ !#-~]{1,255}"|[!#-~][ -~]{0,254})$',
        description="1 to 255 characters, quoted or not. The same request with the same key is done once.",
    ),
]


def idempotency_key(given: str | None) -> str | None:
    """An `Idempotency-Key` header's value, quoted (as the IETF draft has it) or not. Raises `Problem` 422."""
    if given is None:
        return None
    key = given[1:-1] if len(given) > 1 and given[0] == given[-1] == '"' else given
    if not 1 <= len(key) <= LONGEST_KEY:
        raise Problem(422, "invalid_idempotency_key", f"An Idempotency-Key has 1 to {LONGEST_KEY} characters.")
    return key


def _id(given: object) -> object:
    if _UUID.fullmatch(str(given)):
        return given
    raise Problem(404, "not_found", "There is nothing with this id.")


IdOf = Annotated[UUID, Path(json_schema_extra={"pattern": f"^{_UUID.pattern}$"}), BeforeValidator(_id)]
"""An id in a path, with its hyphens. Anything else, such as the path of a file, is a 404."""


class _IdConvertor(StringConvertor):
    regex = _UUID.pattern + r"(?!\n)"  # the end of a compiled path would accept a line feed


register_url_convertor("id", _IdConvertor())
"""`{report_id:id}` in a route does not match a path such as `/v1/reports/rebuild`, which has its own route."""


def with_ids(path: str) -> str:
    """The path of a route, `/v1/orders/{order_id:id}`, from the path in the documents, `/v1/orders/{order_id}`."""
    return _NAMED.sub(r"{\1:id}", path)
