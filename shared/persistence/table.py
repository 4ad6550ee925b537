"""The base of the services' tables: SQLModel, with rows that are created and changed quickly.

For each row, SQLModel goes through all fields and inspects the signature of each default factory. A new order took 0.13
to 0.39 ms, more than everything else that is done for it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticUndefined
from sqlalchemy.orm.attributes import set_attribute
from sqlmodel import SQLModel


class TableModel(SQLModel):
    """The base of a service's own base class, which has metadata of its own."""

    if not TYPE_CHECKING:  # fields are arguments, as pydantic's mypy plugin assumes

        def __init__(self, **values: Any) -> None:
            """Create a row without validation, as values come from contracts. Raises TypeError for an unknown field."""
            fields = type(self).__pydantic_fields__
            if unknown := values.keys() - fields.keys():
                raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}")
            # SQLAlchemy inserts the instance's dictionary. A new row has no earlier values that it must track.
            self.__dict__.update({name: make() for name, make in _defaults(type(self)) if name not in values} | values)

        def __setattr__(self, name: str, value: Any) -> None:
            if name in type(self).__pydantic_fields__:
                set_attribute(self, name, value)
            else:
                super().__setattr__(name, value)


@functools.cache
def _defaults(table: type[SQLModel]) -> list[tuple[str, Callable[[], Any]]]:
    fields = table.model_fields.items()
    return [(name, _maker(field)) for name, field in fields if not field.is_required()]


def _maker(field: Any) -> Callable[[], Any]:
    if field.default_factory:
        made: Callable[[], Any] = field.default_factory
        return made
    default = None if field.default is PydanticUndefined else field.default
    return lambda: default
