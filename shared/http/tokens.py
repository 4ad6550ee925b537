"""Tokens for one machine. A module of its own, so that a command line can make one without loading a web framework."""

import re
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import jwt

ROLES = ("customer", "operator")
ACCESS, READ = "access", "read"
"""The claim, and its value, of a token that may only read: such as that of a service which reads from others."""
# What a database can store and a log line can show: no control characters, no halves of a surrogate pair.
SUBJECT = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,255}")


def issue_token(
    secret: str, *, subject: str, role: str, ttl: int, email: str | None = None, read_only: bool = False
) -> str:
    """A token for one machine, signed with the local secret; `ttl` in seconds, `email` is the caller's own. With
    `read_only` it changes nothing, whatever its role may.

    Raises ValueError on a role or a subject that no service takes.
    """
    if role not in ROLES:
        raise ValueError(f"a role is one of {', '.join(ROLES)}, not {role!r}")
    if not SUBJECT.fullmatch(subject):
        raise ValueError("a subject has 1 to 255 printable characters")
    now = datetime.now(UTC)
    claims = {"jti": str(uuid4()), "sub": subject, "role": role, "iat": now, "exp": now + timedelta(seconds=ttl)}
    claims |= {"email": email, "email_verified": True} if email else {}
    return jwt.encode(claims | ({ACCESS: READ} if read_only else {}), secret, algorithm="HS256")
