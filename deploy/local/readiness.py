"""The answer of a service at `/readyz`."""

import functools
from dataclasses import dataclass
from typing import Any

import httpx

LOOK_SECONDS = 3.0
"""How long a checked part may take to answer."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """A service's answer about itself. `problems` and `warnings` are by part."""

    is_ready: bool
    problems: dict[str, str]
    warnings: dict[str, str]
    checked: tuple[str, ...] = ()
    silence: str = ""
    """Why the service did not answer; empty if it did."""


@functools.cache
def _client() -> httpx.Client:
    """One for all looks: each makes a TLS context. No connection is kept, because a service may be another by then."""
    return httpx.Client(timeout=LOOK_SECONDS, limits=httpx.Limits(max_keepalive_connections=0), trust_env=False)


def readiness(url: str) -> Readiness:
    """The answer of a service at `/readyz`."""
    try:
        answer = _client().get(f"{url}/readyz")
    except httpx.HTTPError as error:
        return Readiness(False, {}, {}, silence=f"{url}: {str(error) or type(error).__name__}")
    try:
        said = answer.json()
        checks: dict[str, Any] = said["checks"]
        problems = {name: str(check["detail"]) for name, check in checks.items() if not check["ok"]}
        return Readiness(answer.status_code == 200, problems, dict(said.get("warnings") or {}), tuple(checks))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Readiness(False, {}, {}, silence=f"{url} answers, but not as a service of ours")
