"""Resources of a service, such as a connection to a mail server. A handler gets a resource by naming its type."""

import inspect
import typing
from collections.abc import Callable, Iterator
from functools import partial, update_wrapper
from typing import Any, Protocol, TypeVar, runtime_checkable

T = TypeVar("T")


@runtime_checkable
class Watched(Protocol):
    """A resource that reports its faults."""

    name: str
    """The name of the resource for operators."""

    def concern(self) -> str | None:
        """The fault of the resource; None while all is well."""


class Resources:
    """One object of each type. A resource that was not given is made when it is first needed, with its own
    resources."""

    def __init__(self, *given: object) -> None:
        self._found = list(given)

    def __iter__(self) -> Iterator[object]:
        return iter(self._found)

    def get(self, kind: type[T]) -> T:
        """The resource of a type. Raises LookupError where there is none and none can be made."""
        for one in self._found:
            if isinstance(one, kind):
                return one
        if not inspect.isclass(kind) or inspect.isabstract(kind) or kind.__module__ == "builtins":
            raise LookupError(f"no resource is a {kind}, and none can be made: hand one to Service(resources=…)")
        made: T = self.bind(kind, skip=0)()
        self._found.append(made)
        return made

    def bind(self, call: Callable[..., Any], skip: int) -> Callable[..., Any]:
        """A function that is given its resources, which are its parameters without a default after the first `skip`.

        Raises LookupError.
        """
        parameters = list(inspect.signature(call).parameters.values())[skip:]
        needed = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
        if not needed:
            return call
        kinds = typing.get_type_hints(getattr(call, "__init__") if inspect.isclass(call) else call)  # noqa: B009
        for name in needed:
            if name not in kinds:
                raise LookupError(f"{call.__qualname__}: the parameter {name!r} names no type")
        return update_wrapper(partial(call, **{name: self.get(kinds[name]) for name in needed}), call)
