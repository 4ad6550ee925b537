"""Bearer tokens: who calls, in which role, and what that lets them see."""

import asyncio
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Literal, Protocol, cast

import jwt
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import TypeAdapter, ValidationError

from contracts.base import Email
from shared.http import Problem
from shared.settings import ServiceSettings
from shared.tokens import ROLES, SUBJECT

Role = Literal["customer", "operator"]
LEEWAY_SECONDS = 10
KNOWN_SECONDS = 60.0
KNOWN_TOKENS = 10_000
_EMAIL: TypeAdapter[str] = TypeAdapter(Email)
_bearer = HTTPBearer(
    auto_error=False, description="A JWT with `sub` and `role` (customer or operator), and `email` if there is one."
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request comes from. `token` is passed on when another service is asked on the caller's behalf; `email` is
    where the token says that the caller can be written to."""

    subject: str
    role: Role
    token: str
    email: str | None = None

    @property
    def is_operator(self) -> bool:
        return self.role == "operator"

    def may_see(self, owner: str) -> bool:
        """A customer sees what is its own; an operator sees everything."""
        return self.is_operator or self.subject == owner


class Tokens:
    """Verifies tokens: HS256 with a secret on one machine, an issuer's published keys (JWKS) in production."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        url, trusted = settings.jwt_jwks_url, settings.tls.context
        self._jwks = jwt.PyJWKClient(str(url), cache_keys=True, ssl_context=trusted) if url else None
        self._known: dict[str, tuple[Caller, float]] = {}

    async def caller(self, token: str) -> Caller:
        """Who a token speaks for. Raises `Problem` 401 with what is wrong, never with the token.

        A caller sends the same token again and again: one that was good is not looked at anew for a minute, so that a
        key that its issuer withdraws is good for so much longer.
        """
        who, good_until = self._known.get(token, (None, 0.0))
        if who is None or good_until < time.time():
            # An issuer's keys may have to be fetched, with blocking input and output.
            who = await asyncio.to_thread(self.verify, token) if self._jwks else self.verify(token)
        return who

    def verify(self, token: str) -> Caller:
        """Raises `Problem` 401 with what is wrong, never with the token."""
        settings, options = self._settings, {"require": ["exp", "sub"]}
        try:
            if self._jwks:
                key: Any = self._jwks.get_signing_key_from_jwt(token).key
                algorithms = ["RS256", "ES256", "EdDSA"]
            elif settings.jwt_secret:
                key, algorithms = settings.jwt_secret.get_secret_value(), ["HS256"]
            else:
                raise Problem(503, "not_configured", "This service was given no way to verify tokens.")
            claims = jwt.decode(
                token,
                key,
                algorithms=algorithms,
                options=cast(Any, options),
                audience=settings.jwt_audience,
                issuer=settings.jwt_issuer,
                leeway=LEEWAY_SECONDS,
            )
        except jwt.PyJWKClientConnectionError as error:
            raise Problem(503, "keys_unavailable", "The issuer's keys cannot be read now; try again.") from error
        except jwt.ExpiredSignatureError as error:
            raise Problem(401, "token_expired", "The token has expired.") from error
        except jwt.PyJWTError as error:
            raise Problem(401, "token_invalid", f"The token cannot be trusted: {error}.") from error
        if claims.get("role") not in ROLES:
            raise Problem(401, "token_invalid", "The token names no role of ours: customer or operator.")
        if not SUBJECT.fullmatch(str(claims["sub"])):
            raise Problem(401, "token_invalid", "The token's subject is not 1 to 255 printable characters.")
        who = Caller(str(claims["sub"]), claims["role"], token, _email(claims.get("email")))
        if len(self._known) >= KNOWN_TOKENS:
            self._known.clear()
        self._known[token] = who, min(time.time() + KNOWN_SECONDS, int(claims["exp"]) + LEEWAY_SECONDS)
        return who


def _email(claim: object) -> str | None:
    """An address to write to. One that is none is passed over: the token is good for everything else."""
    try:
        return _EMAIL.validate_python(claim, strict=True)
    except ValidationError:
        return None


class Limits(Protocol):
    """How often somebody may ask. Each raises `Problem` 429 where it is too often."""

    async def count(self, who: Caller) -> None: ...
    async def count_failure(self, host: str) -> None: ...


async def caller(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Caller:
    """Who calls. Raises `Problem` 401 without a good token, and 429 where the service has limits."""
    limits: Limits | None = request.app.state.limits
    try:
        who = await _verified(request, credentials)
    except Problem as problem:
        if limits and problem.status == HTTPStatus.UNAUTHORIZED:
            await limits.count_failure(request.client.host if request.client else "")
        raise
    if recognise := request.scope.get("recognise"):
        recognise()
    if limits:
        await limits.count(who)
    return who


async def _verified(request: Request, credentials: HTTPAuthorizationCredentials | None) -> Caller:
    if credentials is None:
        raise Problem(401, "token_missing", "Send a token: Authorization: Bearer …")
    tokens: Tokens = request.app.state.tokens
    return await tokens.caller(credentials.credentials)


async def caller_or_link(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Caller | None:
    """Who calls; nobody, where there is only a link's `signature`, for the route to judge. Raises `Problem` 401."""
    is_link = credentials is None and "signature" in request.query_params
    return None if is_link else await caller(request, credentials)


async def operator(who: Annotated[Caller, Depends(caller)]) -> Caller:
    """An operator. Raises `Problem` 403 for anyone else."""
    if not who.is_operator:
        raise Problem(403, "operators_only", "Only an operator may do this.")
    return who


CallerOf = Annotated[Caller, Depends(caller)]
CallerOrLink = Annotated[Caller | None, Depends(caller_or_link)]
OperatorOf = Annotated[Caller, Depends(operator)]
