"""Tokens: which are believed, and as whom."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest

from shared.config.services import settings_of
from shared.http import auth
from shared.http.auth import Tokens
from shared.http.problems import Problem
from shared.http.tokens import issue_token

StockSettings = settings_of("stock")

SECRET = "a secret for tests that is long enough"
IN_AN_HOUR = datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture
def tokens() -> Tokens:
    return Tokens(StockSettings(_env_file=None, jwt_secret=SECRET))  # type: ignore[call-arg]


def signed(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    usual = {"sub": "ana", "role": "customer", "iat": datetime.now(UTC), "exp": IN_AN_HOUR}
    return jwt.encode({**usual, **claims}, secret, algorithm=algorithm)


def test_a_good_token_says_who_calls(tokens: Tokens) -> None:
    caller = tokens.verify(issue_token(SECRET, subject="ana", role="customer", ttl=60))
    assert (caller.subject, caller.is_operator) == ("ana", False)
    assert caller.may_see("ana")
    assert not caller.may_see("bia")
    assert tokens.verify(issue_token(SECRET, subject="eva", role="operator", ttl=60)).may_see("bia")


def test_a_token_can_say_where_to_write_to(tokens: Tokens) -> None:
    assert (
        tokens.verify(issue_token(SECRET, subject="a", role="customer", ttl=60, email="a@b.example")).email
        == "a@b.example"
    )
    assert tokens.verify(signed()).email is None


@pytest.mark.parametrize(
    "email", ["ana", "a@b.example\nBcc: x@y.example", "", 7, None, ["a@b.example"], "a@" + "b" * 300]
)
def test_an_address_that_is_none_is_passed_over_and_the_token_is_good(tokens: Tokens, email: Any) -> None:
    caller = tokens.verify(signed(email=email))
    assert (caller.subject, caller.email) == ("ana", None)


@pytest.mark.parametrize(
    ("claim", "email", "is_verified"),
    [
        ({"email_verified": True}, "a@b.example", True),
        ({"email_verified": "true"}, "a@b.example", True),
        ({}, "a@b.example", False),
        ({"email_verified": "perhaps"}, "a@b.example", False),
        ({"email_verified": False}, None, False),
        ({"email_verified": "false"}, None, False),
    ],
)
def test_an_address_is_the_callers_own_if_the_issuer_says_so_and_none_if_it_says_that_it_is_not(
    tokens: Tokens, claim: dict[str, Any], email: str | None, is_verified: bool
) -> None:
    caller = tokens.verify(signed(email="a@b.example", **claim))
    assert (caller.email, caller.is_email_verified) == (email, is_verified)
    assert not tokens.verify(signed(email_verified=True)).is_email_verified


def unsigned() -> str:
    return jwt.encode({"sub": "ana", "role": "operator", "iat": 1, "exp": IN_AN_HOUR}, key="", algorithm="none")


@pytest.mark.parametrize(
    ("token", "code"),
    [
        (signed(exp=datetime.now(UTC) - timedelta(minutes=1)), "token_expired"),
        (signed("another secret that is long enough too"), "token_invalid"),
        (signed(algorithm="HS512"), "token_invalid"),
        (unsigned(), "token_invalid"),
        (signed(role="root"), "token_invalid"),
        (signed(role=None), "token_invalid"),
        (signed(role=["operator"]), "token_invalid"),
        (signed(sub=7), "token_invalid"),
        (jwt.encode({"sub": "ana", "role": "customer", "iat": 1}, SECRET), "token_invalid"),
        (jwt.encode({"sub": "ana", "role": "customer", "exp": IN_AN_HOUR}, SECRET), "token_invalid"),
        (jwt.encode({"role": "customer", "iat": 1, "exp": IN_AN_HOUR}, SECRET), "token_invalid"),
        (signed(nbf=IN_AN_HOUR), "token_invalid"),
        (signed(exp=datetime(9999, 1, 1, tzinfo=UTC)), "token_too_long"),
        (signed(iat=datetime.now(UTC) - timedelta(days=366)), "token_too_long"),
        (signed(exp=float("inf")), "token_invalid"),
        (signed(iat=float("nan")), "token_invalid"),
        ("", "token_invalid"),
        ("a.b.c", "token_invalid"),
        ("é" * 40, "token_invalid"),
        (signed()[:-4] + "AAAA", "token_invalid"),
    ],
)
def test_a_token_that_cannot_be_trusted_is_refused_without_being_shown(tokens: Tokens, token: str, code: str) -> None:
    with pytest.raises(Problem) as refused:
        tokens.verify(token)
    assert (refused.value.status, refused.value.code) == (401, code)
    assert refused.value.headers["WWW-Authenticate"] == "Bearer"
    assert len(token) < 10 or token not in refused.value.detail


def typed(header: str | None, **claims: Any) -> str:
    usual = {"sub": "ana", "role": "operator", "iat": datetime.now(UTC), "exp": IN_AN_HOUR}
    return jwt.encode({**usual, **claims}, SECRET, algorithm="HS256", headers={"typ": header})


@pytest.mark.parametrize(
    "token",
    [
        typed("logout+jwt"),
        typed("dpop+jwt"),
        typed("JWT", typ="ID"),
        typed("JWT", typ="Refresh"),
        typed("JWT", token_use="id"),
        typed("JWT", token_use=["access"]),
        typed("JWT", at_hash="x"),
        typed("JWT", c_hash="x"),
    ],
)
def test_a_token_that_is_for_something_else_gives_no_access(tokens: Tokens, token: str) -> None:
    with pytest.raises(Problem, match="no access token") as refused:
        tokens.verify(token)
    assert (refused.value.status, refused.value.code) == (401, "token_invalid")


@pytest.mark.parametrize("header", [None, "JWT", "at+jwt", "AT+JWT", "application/at+jwt"])
def test_an_access_token_is_one_in_every_way_that_issuers_write_it(tokens: Tokens, header: str | None) -> None:
    for claims in ({}, {"typ": "Bearer"}, {"token_use": "access"}):
        assert tokens.verify(typed(header, **claims)).is_operator


def test_a_role_that_does_not_exist_gets_no_token() -> None:
    with pytest.raises(ValueError, match="a role is one of"):
        issue_token(SECRET, subject="ana", role="root", ttl=60)


def test_without_a_way_to_verify_nobody_is_believed() -> None:
    with pytest.raises(Problem) as refused:
        Tokens(StockSettings(_env_file=None)).verify(signed())  # type: ignore[call-arg]
    assert refused.value.status == 503


async def test_a_token_that_was_good_is_good_for_a_minute_and_never_after_its_end(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    short, long = signed(exp=datetime.now(UTC) + timedelta(seconds=30)), signed()
    looked_at: list[str] = []
    verify = tokens.verify
    monkeypatch.setattr(tokens, "verify", lambda token: (looked_at.append(token), verify(token))[1])
    for _ in range(3):
        assert {(await tokens.caller(token)).subject for token in (short, long)} == {"ana"}
    assert looked_at == [short, long]
    clock = time.time()
    monkeypatch.setattr(time, "time", lambda: clock + 45)
    await tokens.caller(short)
    assert looked_at == [short, long, short], "its end has come, so it is judged anew"
    monkeypatch.setattr(time, "time", lambda: clock + 61)
    await tokens.caller(long)
    assert looked_at == [short, long, short, long]


async def test_as_many_tokens_are_remembered_as_may_be(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "KNOWN_TOKENS", 3)
    for number in range(10):
        assert (await tokens.caller(signed(sub=f"ana{number}"))).subject == f"ana{number}"
        assert len(tokens._known) <= 3
