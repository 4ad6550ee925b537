"""The OpenAPI document of a service, as those read it who look each reference up."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

COMPONENTS = "#/components/schemas/"


def ref(model: type[BaseModel]) -> dict[str, str]:
    """A reference to a model in place of its schema: `$ref` in a schema is looked up from the document's root, so one
    that brought `$defs` of its own would point at nothing."""
    return {"$ref": f"{COMPONENTS}{model.__name__}"}


class Application(FastAPI):
    """FastAPI, whose document also has the schemas that only a `ref` names, and says where no token is needed."""

    def __init__(self, *, referred: Sequence[type[BaseModel]], **more: Any) -> None:
        super().__init__(**more)
        self._referred = referred

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema:
            return self.openapi_schema
        document = super().openapi()
        referred = [(model, "serialization") for model in self._referred]
        _, found = models_json_schema(referred, ref_template=COMPONENTS + "{model}")  # type: ignore[arg-type]
        components = document.setdefault("components", {})  # a service without routes of its own has none yet
        components["schemas"] = dict(sorted({**found["$defs"], **components.get("schemas", {})}.items()))
        for operation in (operation for path in document["paths"].values() for operation in path.values()):
            operation.setdefault("security", [])  # said, not left out: whoever reads it knows that none is needed
        return document
