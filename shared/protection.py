"""What each answer tells browsers and caches to keep from, and what is logged of who was refused."""

import hashlib
from collections.abc import Iterable

from starlette.types import Scope

from shared.settings import ServiceSettings

REFUSALS = (401, 403, 404)
"""Who gets many of these may be trying doors."""
ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),  # a signed link is not told to whoever is linked to
    (b"x-frame-options", b"DENY"),
)
PERSONAL = (b"cache-control", b"no-store")
BARE = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
ENCRYPTED = (b"strict-transport-security", b"max-age=31536000")
Header = tuple[bytes, bytes]


def headers_for(scope: Scope, headers: Iterable[Header]) -> list[Header]:
    """What is missing in an answer's headers: what it says of these itself holds."""
    said = {name.lower(): value for name, value in headers}
    wanted = list(ALWAYS)
    if scope["path"].startswith("/v1/"):
        wanted.append(PERSONAL)
    if b"json" in said.get(b"content-type", b""):
        wanted.append(BARE)
    if scope.get("scheme") == "https":  # our own, or that of a proxy that is named in our settings
        wanted.append(ENCRYPTED)
    return [(name, value) for name, value in wanted if name not in said]


class Refusals:
    """Who was refused, and why, for the log: as it is, or as digests that are the same for the same."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._is_hashed = settings.log_identities == "hashed"
        # Every process of a service has this, and nobody else does: without it an address is soon guessed.
        self._key = hashlib.sha256(settings.amqp_url.get_secret_value().encode()).digest()

    def about(self, scope: Scope, status: int) -> dict[str, str]:
        """Subject, reason and address; nothing of an answer that is no refusal."""
        if status not in REFUSALS:
            return {}
        client = scope.get("client")
        found = {"subject": scope.get("subject"), "address": client[0] if client else None}
        who = {name: self._shown(value) for name, value in found.items() if value}
        return who | ({"reason": reason} if (reason := scope.get("reason")) else {})

    def _shown(self, value: str) -> str:
        digest = hashlib.blake2b(value.encode(), key=self._key, digest_size=8)
        return digest.hexdigest() if self._is_hashed else value
