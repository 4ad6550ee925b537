"""What each answer tells browsers and caches to keep from, and how the log names who asks."""

import hashlib
from collections.abc import Iterable

from starlette.types import Scope

from shared.config.settings import ServiceSettings

REFUSALS = (401, 403, 404)
"""Who gets many of these may be trying doors."""
BARE = (b"content-security-policy", b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),  # a signed link is not told to whoever is linked to
    (b"x-frame-options", b"DENY"),
    BARE,
)
PERSONAL = (b"cache-control", b"no-store")
ENCRYPTED = (b"strict-transport-security", b"max-age=31536000")
Header = tuple[bytes, bytes]


def headers_for(scope: Scope, headers: Iterable[Header]) -> list[Header]:
    """What is missing in an answer's headers: what it says of these itself holds."""
    said = {name.lower(): value for name, value in headers}
    wanted = list(ALWAYS)
    if scope["path"].startswith("/v1/"):
        wanted.append(PERSONAL)
    if scope.get("scheme") == "https":  # our own, or that of a proxy that is named in our settings
        wanted.append(ENCRYPTED)
    return [(name, value) for name, value in wanted if name not in said]


class Identities:
    """Who asks, for the log: as it is, or as digests that are the same for the same."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._is_hashed = settings.log_identities == "hashed"
        # Every process of a service has this, and nobody else does: without it an address is soon guessed.
        self._key = hashlib.sha256(settings.amqp_url.get_secret_value().encode()).digest()

    def of(self, host: str | None, subject: str | None = None) -> dict[str, str]:
        """Subject and address, as far as they are known."""
        return {name: self._shown(value) for name, value in (("subject", subject), ("address", host)) if value}

    def of_refused(self, scope: Scope, status: int) -> dict[str, str]:
        """Subject, reason and address; nothing of an answer that is no refusal."""
        if status not in REFUSALS:
            return {}
        client = scope.get("client")
        who = self.of(client[0] if client else None, scope.get("subject"))
        return who | ({"reason": reason} if (reason := scope.get("reason")) else {})

    def _shown(self, value: str) -> str:
        digest = hashlib.blake2b(value.encode(), key=self._key, digest_size=8)
        return digest.hexdigest() if self._is_hashed else value
