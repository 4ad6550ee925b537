"""Request bodies: JSON in UTF-8 (RFC 8259, 8.1), in which no object has a name twice."""

import json
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute


def read(body: bytes) -> Any:
    """The value of a JSON body, without a byte order mark. Raises `json.JSONDecodeError`."""
    try:
        return json.loads(body.decode("utf-8-sig"), object_pairs_hook=_once)
    except json.JSONDecodeError:
        raise
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError("it is not UTF-8", "", error.start) from error
    except RecursionError as error:
        raise json.JSONDecodeError("it is nested too deeply", "", 0) from error
    except ValueError as error:  # Python limits the digits of a number
        raise json.JSONDecodeError("a number in it is too long", "", 0) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without repeated names. With two values for one name, a program in front of this one may have checked
    one value, and this one would use the other."""
    found = dict(pairs)
    if len(found) < len(pairs):
        [(name, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise json.JSONDecodeError(f"the name {name[:64]!r} is there more than once in one object", "", 0)
    return found


class _Request(Request):
    async def json(self) -> Any:
        return read(await self.body())


class Route(APIRoute):
    """A route that reads its body with `read`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def with_body(request: Request) -> Response:
            return await handle(_Request(request.scope, request.receive))

        return with_body
