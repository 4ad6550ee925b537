"""The versions that a service's tables can have, read off its migrations without Alembic: that is slow to import."""

import re
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_NAMED = re.compile(r'^(revision|down_revision) = "(\w+)"', re.MULTILINE)


def folders(service: str) -> list[Path]:
    """Where the kernel's migrations are, and the service's."""
    return [_ROOT / "shared/migrations/versions", _ROOT / "services" / service / "migrations"]


@cache
def known(service: str) -> dict[str, str | None]:
    """Each version that this program knows, and the one before it."""
    texts = [path.read_text() for folder in folders(service) for path in sorted(folder.glob("*.py"))]
    found = [dict(_NAMED.findall(text)) for text in texts]
    return {names["revision"]: names.get("down_revision") for names in found if "revision" in names}


def newest(service: str) -> set[str]:
    """The kernel's newest version and the service's."""
    return known(service).keys() - set(known(service).values())


def behind(service: str, found: set[str]) -> str | None:
    """What a database's versions lack for this program, in words. None also where a newer program has migrated it: an
    older one goes on beside that, or takes its place again."""
    missing = newest(service) - found
    if not missing or found - known(service).keys():
        return None
    return f"it is at {', '.join(sorted(found)) or 'no version'}, not yet at {', '.join(sorted(newest(service)))}"
