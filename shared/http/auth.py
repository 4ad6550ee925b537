"""Bearer tokens: the caller, its role, and what it may see."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Literal, Protocol, cast

import jwt
import structlog
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import TypeAdapter, ValidationError

from contracts.base import Email
from shared.config.settings import ServiceSettings
from shared.http.keys import Keys
from shared.http.problems import Problem
from shared.http.protection import Identities
from shared.http.tokens import ACCESS, READ, ROLES, SUBJECT

log = structlog.get_logger(__name__)

Role = Literal["customer", "operator"]
LEEWAY_SECONDS = 10
KNOWN_SECONDS = 60.0
KNOWN_TOKENS = 10_000
_EMAIL: TypeAdapter[str] = TypeAdapter(Email)
READING = ("GET", "HEAD")
ALGORITHMS = ("RS256", "ES256", "EdDSA")
"""The algorithms of an issuer's signatures."""
FOR_ACCESS = frozenset({"jwt", "at+jwt", "application/at+jwt", "bearer", "access"})
"""The names of the type of an access token, in its header (RFC 9068) or in an issuer's own claim (`KIND`)."""
KIND = ("typ", "token_use")
"""Claims with the type of a token: Keycloak's and Cognito's."""
OF_ID_TOKENS = frozenset({"at_hash", "c_hash", "s_hash"})
"""Claims that only an ID token has (OpenID Connect Core, 3.3.2.11, and FAPI)."""
OTHER_KEY = (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError, jwt.InvalidKeyError)
"""The errors of a token that was signed with another key."""
_bearer = HTTPBearer(
    auto_error=False,
    description="A JWT with `sub` and `role` (customer or operator), and `email` and `email_verified` if it has them.",
)


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request, as its token describes it. `token` is forwarded when another service is asked for the
    caller. `email` is an address of the caller; `is_email_verified` says that the issuer has verified it. `issued_at`
    and `expires_at` are epoch seconds, `token_id` is the token's `jti`. A caller that `is_read_only` changes nothing,
    whatever its role allows."""

    subject: str
    role: Role
    token: str
    email: str | None = None
    issued_at: float = 0.0
    expires_at: float = math.inf
    token_id: str | None = None
    is_email_verified: bool = False
    is_read_only: bool = False

    @property
    def is_operator(self) -> bool:
        return self.role == "operator"

    def owns(self, address: str) -> bool:
        """Whether the token says that an address is the caller's own."""
        return self.is_email_verified and (self.email or "").casefold() == address.casefold()

    def may_see(self, owner: str, made_as: str = "customer") -> bool:
        """Whether the caller may see what `owner` made in the role `made_as`. A customer sees what it made as a
        customer; an operator sees everything."""
        return self.is_operator or (self.subject, self.role) == (owner, made_as)


class Tokens:
    """Verifies tokens: HS256 with a secret on one machine, an issuer's published keys (JWKS) in production."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        url = settings.jwt_jwks_url
        self._keys = Keys(str(url), settings.tls) if url else None
        self._known: dict[str, tuple[Caller, float]] = {}

    async def caller(self, token: str) -> Caller:
        """The caller that a token stands for. Raises `Problem` 401 with the fault, never with the token, and 503 if the
        issuer's keys cannot be read.

        Callers send the same token many times, so a verified token is accepted for a minute without another check, but
        no longer than the keys are fresh.
        """
        return self.known(token) or (await self._of_issuer(token, self._keys) if self._keys else self.verify(token))

    def known(self, token: str) -> Caller | None:
        """The caller that a token stands for, if the token was verified within the last minute."""
        who, good_until = self._known.get(token, (None, 0.0))
        return who if good_until >= time.time() else None

    def verify(self, token: str) -> Caller:
        """The caller that a token stands for, by the secret of one machine. Raises `Problem` 401 or 503."""
        if not self._settings.jwt_secret:
            raise Problem(503, "not_configured", "This service was given no way to verify tokens.")
        with _refusing():
            claims = self._claims(token, [self._settings.jwt_secret.get_secret_value()], ["HS256"])
        return self._remember(self._caller(token, claims), KNOWN_SECONDS)

    async def _of_issuer(self, token: str, keys: Keys) -> Caller:
        with _refusing():
            kid = jwt.get_unverified_header(token).get("kid")
            found = await keys.named(kid)
            try:
                claims = self._claims(token, found, ALGORITHMS)
            except OTHER_KEY:  # the issuer may have replaced the key under the same name
                claims = self._claims(token, await keys.renewed(kid), ALGORITHMS)
        return self._remember(self._caller(token, claims), min(KNOWN_SECONDS, keys.fresh_for))

    def _claims(self, token: str, keys: Sequence[Any], algorithms: Sequence[str]) -> dict[str, Any]:
        """The claims of a token that one of the keys has signed. Raises `jwt.PyJWTError`."""
        failed: jwt.PyJWTError = jwt.InvalidSignatureError("its key is not among those that its issuer publishes")
        for key in keys:
            try:
                found = jwt.decode_complete(
                    token,
                    key,
                    algorithms=algorithms,
                    options=cast(Any, {"require": ["exp", "iat", "sub"]}),
                    audience=self._settings.jwt_audience,
                    issuer=self._settings.jwt_issuer,
                    leeway=LEEWAY_SECONDS,
                )
                return _for_access(found["header"], found["payload"])
            except OTHER_KEY as error:
                failed = error
        raise failed

    def _caller(self, token: str, claims: dict[str, Any]) -> Caller:
        if claims.get("role") not in ROLES:
            raise Problem(401, "token_invalid", "The token names no role of ours: customer or operator.")
        if not SUBJECT.fullmatch(str(claims["sub"])):
            raise Problem(401, "token_invalid", "The token's subject is not 1 to 255 printable characters.")
        issued_at, expires_at = _seconds(claims["iat"]), _seconds(claims["exp"])
        days = self._settings.jwt_max_days
        if expires_at - issued_at > days * 86_400 + LEEWAY_SECONDS:
            raise Problem(401, "token_too_long", f"The token is good for more than {days:g} days: take a shorter one.")
        verified, token_id = claims.get("email_verified"), claims.get("jti")  # some issuers write "true"
        email = None if verified in (False, "false") else _email(claims.get("email"))
        is_verified = email is not None and verified in (True, "true")
        may = (is_verified, claims.get(ACCESS) == READ)
        return Caller(str(claims["sub"]), claims["role"], token, email, issued_at, expires_at, token_id, *may)

    def _remember(self, who: Caller, seconds: float) -> Caller:
        if len(self._known) >= KNOWN_TOKENS:
            self._known.clear()
        self._known[who.token] = who, min(time.time() + seconds, who.expires_at + LEEWAY_SECONDS)
        return who


@contextmanager
def _refusing() -> Iterator[None]:
    """Turns the errors of a token's verification into `Problem` 401."""
    try:
        yield
    except jwt.ExpiredSignatureError as error:
        raise Problem(401, "token_expired", "The token has expired.") from error
    except jwt.PyJWTError as error:
        raise Problem(401, "token_invalid", f"The token cannot be trusted: {error}.") from error
    except OverflowError as error:
        raise Problem(401, "token_invalid", "The token cannot be trusted: a time in it is none.") from error


def _for_access(header: dict[str, Any], claims: dict[str, Any]) -> dict[str, Any]:
    """The claims of an access token. Raises `Problem` 401 for other tokens: an ID token is for the client that signs a
    person in, and authorises nothing here."""
    said = (header.get("typ"), *(claims.get(name) for name in KIND))
    if all(kind is None or str(kind).lower() in FOR_ACCESS for kind in said) and not OF_ID_TOKENS & claims.keys():
        return claims
    raise Problem(401, "token_invalid", "This is no access token: send that, not an ID token or a refresh token.")


def _seconds(claim: object) -> float:
    """A time in a token (RFC 7519, NumericDate). Raises `Problem` 401."""
    if isinstance(claim, int | float) and math.isfinite(claim):
        return float(claim)
    raise Problem(401, "token_invalid", "The token cannot be trusted: a time in it is none.")


def _email(claim: object) -> str | None:
    """The mail address in a claim; None if it is not valid. The rest of the token stays valid."""
    try:
        return _EMAIL.validate_python(claim, strict=True)
    except ValidationError:
        return None


class Limits(Protocol):
    """Limits of requests. Each method counts one request and raises `Problem` 429 if there were too many."""

    async def count(self, who: Caller) -> None: ...
    async def count_failure(self, host: str) -> None: ...


async def caller(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Caller:
    """The caller. Raises `Problem` 401 without a valid token, 429 beyond a limit of the service, and 403 for a change
    with a read-only token."""
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
    if who.is_read_only and request.method not in READING:
        raise Problem(403, "read_only", "This token may only read.")
    return who


async def _verified(request: Request, credentials: HTTPAuthorizationCredentials | None) -> Caller:
    if credentials is None:
        raise Problem(401, "token_missing", "Send a token: Authorization: Bearer …")
    tokens: Tokens = request.app.state.tokens
    is_new = tokens.known(credentials.credentials) is None
    who = await tokens.caller(credentials.credentials)
    request.scope["subject"] = who.subject
    if request.app.state.revoked:
        request.app.state.revoked.demand_good(who)
    if is_new:  # at most one line a minute for each token
        identities: Identities = request.app.state.identities
        host = request.client.host if request.client else None
        log.info("token accepted", **identities.of(host, who.subject), role=who.role, token_id=who.token_id)
    return who


async def caller_or_link(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Caller | None:
    """The caller; None if there is only the `signature` of a link, which the route verifies. Raises `Problem` 401."""
    is_link = credentials is None and "signature" in request.query_params
    return None if is_link else await caller(request, credentials)


async def operator(who: Annotated[Caller, Depends(caller)]) -> Caller:
    """The caller, if it is an operator. Raises `Problem` 403."""
    if not who.is_operator:
        raise Problem(403, "operators_only", "Only an operator may do this.")
    return who


CallerOf = Annotated[Caller, Depends(caller)]
CallerOrLink = Annotated[Caller | None, Depends(caller_or_link)]
OperatorOf = Annotated[Caller, Depends(operator)]
