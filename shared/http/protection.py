"""Headers that restrict browsers and caches, and the names of callers in the log."""

import hashlib
from collections.abc import Iterable

from starlette.types import Scope

from shared.config.settings import ServiceSettings

REFUSALS = (401, 403, 404)
"""Statuses that the log names with the caller: many of them may be an attack."""
BARE = (b"content-security-policy", b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),  # a signed link must not reach another site by `Referer`
    (b"x-frame-options", b"DENY"),
    BARE,
)
PERSONAL = (b"cache-control", b"no-store")
ENCRYPTED = (b"strict-transport-security", b"max-age=31536000")
Header = tuple[bytes, bytes]


def headers_for(scope: Scope, headers: Iterable[Header]) -> list[Header]:
    """The headers that an answer lacks. A header that the answer sets itself stays."""
    said = {name.lower(): value for name, value in headers}
    wanted = list(ALWAYS)
    if scope["path"].startswith("/v1/"):
        wanted.append(PERSONAL)
    if scope.get("scheme") == "https":  # the scheme of this connection, or that of a proxy in the settings
        wanted.append(ENCRYPTED)
    return [(name, value) for name, value in wanted if name not in said]


class Identities:
    """Callers as the log names them: in the clear, or as digests, which are equal for equal callers."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._is_hashed = settings.log_identities == "hashed"
        # A secret that all processes of a service share. Without it, an address could be guessed from its digest.
        self._key = hashlib.sha256(settings.amqp_url.get_secret_value().encode()).digest()

    def of(self, host: str | None, subject: str | None = None) -> dict[str, str]:
        """The fields of a log line: subject and address, if they are known."""
        return {name: self._shown(value) for name, value in (("subject", subject), ("address", host)) if value}

    def of_refused(self, scope: Scope, status: int) -> dict[str, str]:
        """The fields of a refusal: subject, reason and address. An empty dict for other answers."""
        if status not in REFUSALS:
            return {}
        client = scope.get("client")
        who = self.of(client[0] if client else None, scope.get("subject"))
        return who | ({"reason": reason} if (reason := scope.get("reason")) else {})

    def _shown(self, value: str) -> str:
        digest = hashlib.blake2b(value.encode(), key=self._key, digest_size=8)
        return digest.hexdigest() if self._is_hashed else value
