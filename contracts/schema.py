"""One JSON Schema (2020-12) per message version, in `contracts/schemas/`, for readers in any language.

python -m contracts.schema          write them
"""

import json
from pathlib import Path
from typing import Any

from contracts.flow import FLOW

FOLDER = Path(__file__).parent / "schemas"


def schemas() -> dict[str, dict[str, Any]]:
    """The schema of every message, by file name.

    They say what is sent, without `additionalProperties: false`: a reader has to accept fields that it does not know.
    """
    return {f"{message.key}.json": _open(message.model_json_schema(mode="serialization")) for message in FLOW}


def _open(schema: dict[str, Any]) -> dict[str, Any]:
    found = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    for part in (found, *found.get("$defs", {}).values()):
        part.pop("additionalProperties", None)
    return found


def text(schema: dict[str, Any]) -> str:
    """A schema as its file has it."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def write() -> None:
    """Write all schemas, and remove those that no message has any more."""
    FOLDER.mkdir(exist_ok=True)
    wanted = schemas()
    for stale in {path.name for path in FOLDER.glob("*.json")} - wanted.keys():
        (FOLDER / stale).unlink()
    for name, schema in wanted.items():
        (FOLDER / name).write_text(text(schema), encoding="utf-8")


if __name__ == "__main__":
    write()
