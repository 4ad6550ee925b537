"""One JSON Schema (2020-12) per message version, in `contracts/schemas/`, for readers in any language.

A committed schema is published: others read and write messages by it.

python -m contracts.schema          write them; refused if a change is incompatible
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contracts.base import Event
from contracts.compatibility import breaks
from contracts.flow import BY_KEY, FLOW

FOLDER = Path(__file__).parent / "schemas"
RETIRED = FOLDER / "retired"
"""The schemas of messages that no service sends or reads any more. Their names are never used again."""

Schemas = Mapping[str, dict[str, Any]]

_ADVICE = """\
Others may read or write {key} by its schema already. Keep it as it is, and put what is new into {next} beside it:
docs/messages.md has the steps. (If {key} was never published, remove {file} and try again.)"""
_GONE = """\
{key}: no message of contracts/flow.py has this name any more, and others may still read or write it. Keep it; or, if
nobody does (docs/messages.md says how to find out), move {file} to contracts/schemas/retired/."""


def schemas() -> dict[str, dict[str, Any]]:
    """The schema of every message, by file name.

    They describe sent messages, without `additionalProperties: false`, because a reader must accept unknown fields.
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


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The schemas in a folder, by file name."""
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def broken(published: Schemas, wanted: Schemas, retired: Schemas) -> list[str]:
    """The incompatibilities of `wanted` with `published`: message, field, and what to do."""
    found = []
    for name, old in published.items():
        key = name.removesuffix(".json")
        words = {"key": key, "next": _next_version(key), "file": f"contracts/schemas/{name}"}
        if name in wanted:
            problems = breaks(old, wanted[name], is_event=issubclass(BY_KEY.get(key, Event), Event))
            if problems:
                found.append("\n".join([*(f"{key}: {problem}" for problem in problems), _ADVICE.format(**words)]))
        elif name not in retired:
            found.append(_GONE.format(**words))
    for name in sorted(wanted.keys() & retired.keys()):
        found.append(
            f"{name.removesuffix('.json')}: a retired message had this name; give the new one the next version"
        )
    return found


def _next_version(key: str) -> str:
    stem, _, version = key.rpartition(".v")
    return f"{stem}.v{int(version) + 1}"


def write() -> None:
    """Write all schemas. Raises SystemExit, and writes none, if a change is incompatible."""
    wanted = schemas()
    if problems := broken(read(FOLDER), wanted, read(RETIRED)):
        raise SystemExit("\n\n".join(problems))
    FOLDER.mkdir(exist_ok=True)
    for name, schema in wanted.items():
        (FOLDER / name).write_text(text(schema), encoding="utf-8")


if __name__ == "__main__":
    write()
