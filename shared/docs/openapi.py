"""The OpenAPI document of a service, and the merged document of several services."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from contracts.published import committed, public
from shared.docs.messages import Document, join

COMPONENTS = "#/components/schemas/"


def ref(model: type[BaseModel]) -> dict[str, str]:
    """A reference to a model, in place of its schema. A `$ref` is resolved from the root of the document, so a schema
    with `$defs` of its own would have dangling references."""
    return {"$ref": f"{COMPONENTS}{model.__name__}"}


class PublicRouter(APIRouter):
    """The routes of the public service, whose document describes the public routes of all services and begins with
    `about`. `groups` are the tags of all routes and their descriptions, in the order of display."""

    def __init__(self, *, about: str, groups: Mapping[str, str], **more: Any) -> None:
        super().__init__(**more)
        self.about, self.groups = about, [{"name": name, "description": said} for name, said in groups.items()]


class Application(FastAPI):
    """FastAPI, whose document also has the schemas that only a `ref` names, and marks the operations without a
    token."""

    def __init__(self, *, service: str, router: APIRouter, referred: Sequence[type[BaseModel]], **more: Any) -> None:
        self._is_public = isinstance(router, PublicRouter)
        if isinstance(router, PublicRouter):
            more |= {"description": router.about, "openapi_tags": router.groups}
        super().__init__(**more)
        self._service, self._referred = service, referred

    def openapi(self) -> Document:
        if self.openapi_schema:
            return self.openapi_schema
        document = super().openapi()
        referred = [(model, "serialization") for model in self._referred]
        _, found = models_json_schema(referred, ref_template=COMPONENTS + "{model}")  # type: ignore[arg-type]
        components = document.setdefault("components", {})  # a service without routes has no components
        components["schemas"] = dict(sorted({**found["$defs"], **components.get("schemas", {})}.items()))
        for operation in (operation for path in document["paths"].values() for operation in path.values()):
            operation.setdefault("security", [])  # explicitly empty: no token is needed
        if self._is_public:
            merge(document, (found for name, found in committed().items() if name != self._service))
        return document


def written(document: Document) -> str:
    """The text of a document's file."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def merge(document: Document, others: Iterable[Document]) -> None:
    """Add the public paths of other documents, and all that they refer to. Raises ValueError if two documents define
    one name differently."""
    for other in others:
        for path, operations in public(other).items():
            join(document["paths"].setdefault(path, {}), operations)
        for kind, named in other.get("components", {}).items():
            join(document["components"].setdefault(kind, {}), named)
    document["paths"] = dict(sorted(document["paths"].items()))
    document["components"]["schemas"] = dict(sorted(document["components"]["schemas"].items()))
