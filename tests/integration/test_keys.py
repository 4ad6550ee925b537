"""An issuer that rotates, withdraws and loses its keys, and what becomes of the tokens that it has signed."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from shared.config.services import settings_of
from shared.http import keys
from shared.http.auth import Tokens
from shared.http.problems import Problem

ISSUER = {"jwt_issuer": "https://issuer.example", "jwt_audience": "malote"}
RSA = [rsa.generate_private_key(65537, 2048) for _ in range(2)]
EC = ec.generate_private_key(ec.SECP256R1())


class Issuer:
    """A server with a key set, as good or as bad as it is told to be; `asked` counts."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {"one": RSA[0]}
        self.answer: bytes | None = None
        self.asked = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        writer.write(self._published() if self.answer is None else self.answer)
        writer.close()

    def _published(self) -> bytes:
        return answer(json.dumps({"keys": [_public(kid, key) for kid, key in self.keys.items()]}))

    def token(self, kid: str, key: Any = None, **claims: Any) -> str:
        key = key or self.keys[kid]
        about = {"sub": "ana", "role": "customer", "iss": ISSUER["jwt_issuer"], "aud": "malote"}
        ends = {"iat": datetime.now(UTC), "exp": datetime.now(UTC) + timedelta(hours=1)}
        algorithm = "ES256" if key is EC else "RS256"
        return jwt.encode({**about, **ends, **claims}, key, algorithm=algorithm, headers={"kid": kid})


def answer(body: str, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


def _public(kid: str, key: Any) -> dict[str, Any]:
    algorithm = jwt.algorithms.ECAlgorithm if key is EC else jwt.algorithms.RSAAlgorithm
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, "use": "sig"}


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    found = Issuer()
    async with await asyncio.start_server(found.serve, "127.0.0.1", 0) as server:
        found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"  # type: ignore[attr-defined]
        yield found


@pytest.fixture
def tokens(issuer: Issuer) -> Tokens:
    return Tokens(settings_of("stock")(_env_file=None, jwt_jwks_url=issuer.url, **ISSUER))  # type: ignore[call-arg,attr-defined]


async def refusal(tokens: Tokens, token: str) -> tuple[int, str]:
    with pytest.raises(Problem) as refused:
        await tokens.caller(token)
    return refused.value.status, refused.value.code


async def test_a_key_that_is_withdrawn_is_trusted_for_a_minute_and_no_longer(
    issuer: Issuer, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer.keys["two"] = RSA[1]
    withdrawn, kept = issuer.token("one"), issuer.token("two")
    for _ in range(3):
        assert {(await tokens.caller(token)).subject for token in (withdrawn, kept)} == {"ana"}
    assert issuer.asked == 1
    del issuer.keys["one"]
    monkeypatch.setattr(keys, "FRESH_SECONDS", 0.0)  # as after a minute
    tokens._known.clear()
    assert await refusal(tokens, withdrawn) == (401, "token_invalid")
    assert (await tokens.caller(kept)).subject == "ana"


async def test_a_token_is_taken_unseen_for_no_longer_than_its_key_is_fresh(
    issuer: Issuer, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "FRESH_SECONDS", 0.2)
    token = issuer.token("one")
    await tokens.caller(token)
    issuer.keys = {"two": RSA[1]}
    await asyncio.sleep(0.25)
    assert await refusal(tokens, token) == (401, "token_invalid")


async def test_a_new_key_is_taken_at_once_also_under_an_old_name(issuer: Issuer, tokens: Tokens) -> None:
    await tokens.caller(issuer.token("one"))
    issuer.keys["two"] = EC
    assert (await tokens.caller(issuer.token("two"))).subject == "ana"
    issuer.keys["one"] = RSA[1]
    assert (await tokens.caller(issuer.token("one"))).subject == "ana"
    issuer.keys["one"] = EC
    assert (await tokens.caller(issuer.token("one", sub="bia"))).subject == "bia"


async def test_however_many_unknown_keys_are_named_the_issuer_is_asked_a_few_times(
    issuer: Issuer, tokens: Tokens
) -> None:
    strange = [issuer.token(f"unknown {number}", RSA[1]) for number in range(10)]
    forged = [issuer.token("one", RSA[1], sub=f"bia {number}") for number in range(10)]
    for token in (*strange, *forged):
        assert await refusal(tokens, token) == (401, "token_invalid")
    assert issuer.asked == keys.ASKS
    assert (await tokens.caller(issuer.token("one"))).subject == "ana"


BROKEN = {
    "html": answer("<html>Sign in</html>"),
    "a list": answer("[]"),
    "no list": answer('{"keys": 7}'),
    "no key": answer('{"keys": []}'),
    "none of use": answer('{"keys": [{"kty": "oct", "kid": "one", "k": "c2VjcmV0"}, {"kid": "one"}, 7]}'),
    "deep": answer("[" * 100_000),
    "an error": answer("{}", "500 Internal Server Error"),
    "elsewhere": answer("", "302 Found"),
    "cut": b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{",
    "nothing": b"",
    "endless": answer(" " * (keys.LARGEST_ANSWER + 1)),
}


async def test_an_issuer_that_answers_nonsense_is_a_503_and_is_asked_a_few_times(issuer: Issuer) -> None:
    for name, nonsense in BROKEN.items():
        issuer.answer, issuer.asked = nonsense, 0
        settings = settings_of("stock")(_env_file=None, jwt_jwks_url=issuer.url, **ISSUER)  # type: ignore[call-arg,attr-defined]
        tokens = Tokens(settings)
        for number in range(8):
            found = await refusal(tokens, issuer.token("one", sub=f"ana {number}"))
            assert found == (503, "keys_unavailable"), name
        assert issuer.asked == keys.ASKS, name


async def test_while_the_issuer_is_away_known_keys_are_taken_for_five_minutes(
    issuer: Issuer, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tokens.caller(issuer.token("one"))
    issuer.answer = b""
    monkeypatch.setattr(keys, "FRESH_SECONDS", 0.0)
    assert (await tokens.caller(issuer.token("one", sub="bia"))).subject == "bia"
    monkeypatch.setattr(keys, "OUTAGE_SECONDS", 0.0)
    assert await refusal(tokens, issuer.token("one", sub="eva")) == (503, "keys_unavailable")


async def test_requests_that_come_together_ask_once(issuer: Issuer, tokens: Tokens) -> None:
    many = [tokens.caller(issuer.token("one", sub=f"ana {number}")) for number in range(20)]
    assert len(await asyncio.gather(*many)) == 20
    assert issuer.asked == 1
