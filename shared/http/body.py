"""The body of a request, read in the one way that everybody reads it: UTF-8 (RFC 8259, 8.1), and a name once."""

import json
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute


def read(body: bytes) -> Any:
    """What a body says. Raises `json.JSONDecodeError`. A byte order mark before it is passed over."""
    try:
        return json.loads(body.decode("utf-8-sig"), object_pairs_hook=_once)
    except json.JSONDecodeError:
        raise
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError("it is not UTF-8", "", error.start) from error
    except RecursionError as error:
        raise json.JSONDecodeError("it is nested too deeply", "", 0) from error
    except ValueError as error:  # Python's own bound on digits
        raise json.JSONDecodeError("a number in it is too long", "", 0) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two values for one name nobody can say which was meant, and what looked at the body before us may have read
    the other."""
    found = dict(pairs)
    if len(found) < len(pairs):
        [(name, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise json.JSONDecodeError(f"the name {name[:64]!r} is there more than once in one object", "", 0)
    return found


class _Request(Request):
    async def json(self) -> Any:
        return read(await self.body())


class Route(APIRoute):
    """A route that reads its body so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def with_body(request: Request) -> Response:
            return await handle(_Request(request.scope, request.receive))

        return with_body
