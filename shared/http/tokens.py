"""Tokens for one machine. In a module of its own, so that the command line makes one without loading a web
framework."""

import re
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import jwt

ROLES = ("customer", "operator")
ACCESS, READ = "access", "read"
"""The claim of a read-only token, and its value. A service that reads from others uses such a token."""
# Text that databases store and logs show: no control characters, no halves of a surrogate pair.
SUBJECT = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,255}")


def issue_token(
    secret: str, *, subject: str, role: str, ttl: int, email: str | None = None, read_only: bool = False
) -> str:
    """A token for one machine, signed with the local secret. `ttl` is in seconds; `email` is the caller's verified
    address. With `read_only` the caller changes nothing, whatever its role allows.

    Raises ValueError for an invalid role or subject.
    """
    if role not in ROLES:
        raise ValueError(f"a role is one of {', '.join(ROLES)}, not {role!r}")
    if not SUBJECT.fullmatch(subject):
        raise ValueError("a subject has 1 to 255 printable characters")
    now = datetime.now(UTC)
    claims = {"jti": str(uuid4()), "sub": subject, "role": role, "iat": now, "exp": now + timedelta(seconds=ttl)}
    claims |= {"email": email, "email_verified": True} if email else {}
    return jwt.encode(claims | ({ACCESS: READ} if read_only else {}), secret, algorithm="HS256")
