"""Tokens for one machine. A module of its own, so that a command line can make one without loading a web framework."""

from datetime import UTC, datetime, timedelta

import jwt

ROLES = ("customer", "operator")


def issue_token(secret: str, *, subject: str, role: str, ttl: int) -> str:
    """A token for one machine, signed with the local secret; `ttl` in seconds. Raises ValueError on another role."""
    if role not in ROLES:
        raise ValueError(f"a role is one of {', '.join(ROLES)}, not {role!r}")
    now = datetime.now(UTC)
    claims = {"sub": subject, "role": role, "iat": now, "exp": now + timedelta(seconds=ttl)}
    return jwt.encode(claims, secret, algorithm="HS256")
