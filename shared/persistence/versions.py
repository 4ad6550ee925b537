"""The versions that a service's tables can have, read from its migrations without importing Alembic, which is slow."""

import re
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_NAMED = re.compile(r'^(revision|down_revision) = "(\w+)"', re.MULTILINE)


def folders(service: str) -> list[Path]:
    """The folders of the kernel's and the service's migrations."""
    return [_ROOT / "shared/migrations/versions", _ROOT / "services" / service / "migrations"]


@cache
def known(service: str) -> dict[str, str | None]:
    """Each known version, and the version before it."""
    texts = [path.read_text() for folder in folders(service) for path in sorted(folder.glob("*.py"))]
    found = [dict(_NAMED.findall(text)) for text in texts]
    return {names["revision"]: names.get("down_revision") for names in found if "revision" in names}


def newest(service: str) -> set[str]:
    """The kernel's newest version and the service's."""
    return known(service).keys() - set(known(service).values())


def behind(service: str, found: set[str]) -> str | None:
    """Which versions a database lacks, as a text. None if it lacks none, or if a newer program has migrated it: an
    older program may still run on that database."""
    missing = newest(service) - found
    if not missing or found - known(service).keys():
        return None
    return f"it is at {', '.join(sorted(found)) or 'no version'}, not yet at {', '.join(sorted(newest(service)))}"
