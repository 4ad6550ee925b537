"""The committed OpenAPI documents in `contracts/openapi`: what each service answers over HTTP."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "openapi"
GATEWAY = "gateway"
PUBLIC = "/v1/"
"""The prefix of paths for clients. Each service has the others, such as `/livez`, for itself."""


def committed() -> dict[str, dict[str, Any]]:
    """The committed documents by the names of their services."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}


def public(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The operations of a document that are for clients, by path."""
    return {path: operations for path, operations in document["paths"].items() if path.startswith(PUBLIC)}


def owners() -> dict[str, dict[str, Any]]:
    """The public paths of each service behind the gateway, by its name. Services without public paths are left out."""
    return {name: paths for name, found in committed().items() if name != GATEWAY and (paths := public(found))}
