"""TLS to broker, database and HTTPS: certificates are checked, and what is wrong with one is said in words."""

import asyncio
import contextlib
import os
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import jwt
import pytest
import trustme
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import APIRouter, FastAPI
from jwt.algorithms import OKPAlgorithm
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from deploy.local.rabbitmq import ADMINISTRATOR, RabbitNode
from shared.config.tls import Tls
from shared.messaging import topology
from shared.persistence.database import Database, Outage, is_outage, migrate
from shared.service import Service
from tests.integration.reserving import RESERVED, on_order_placed
from tests.integration.test_topology import PASSWORDS
from tests.postgres import PostgresCluster
from tests.running import LADDER, Broker, an_order, module_of, running, settings_for, until
from tests.servers import Certificates, Doors
from tests.serving import NO_BROKER, serving

OPEN, TLS_ONLY, MUTUAL = "tls_or_not", "tls_only", "tls_mutual"
RULES = f"""\
hostssl {MUTUAL} all 127.0.0.1/32 trust clientcert=verify-ca
hostssl {TLS_ONLY} all 127.0.0.1/32 trust
host {TLS_ONLY},{MUTUAL} all all reject
"""
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def known(certificates: Certificates) -> Tls:
    """The tests' authority, and a certificate of it to show."""
    return Tls(certificates.ca, *certificates.issue("stock"))


@pytest.fixture
def stranger(tmp_path: Path) -> Tls:
    """An authority that signed nothing here."""
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "stranger.pem"))
    return Tls(tmp_path / "stranger.pem")


@pytest.fixture(scope="module")
def secured(postgres: PostgresCluster, certificates: Certificates) -> Iterator[PostgresCluster]:
    """The cluster with TLS and a database that can be reached anyhow, one by TLS only, one with a certificate only."""
    names = (OPEN, TLS_ONLY, MUTUAL)
    for name in names:
        postgres.create_database(name)
    rules = postgres.folder / "data/pg_hba.conf"
    before = rules.read_text()
    rules.write_text(RULES + before)
    present(postgres, certificates.ca, *certificates.issue("127.0.0.1"))
    yield postgres
    rules.write_text(before)
    command(postgres, "ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()")
    for name in names:
        postgres.drop_database(name)


def present(cluster: PostgresCluster, ca: Path, certificate: Path, key: Path) -> None:
    """Let the cluster show this certificate from now on. It must be its owner's, or PostgreSQL refuses it."""
    folder = cluster.folder / "data"
    for name, path in (("root.crt", ca), ("server.crt", certificate), ("server.key", key)):
        (folder / name).write_bytes(path.read_bytes())
        (folder / name).chmod(0o600)
        os.chown(folder / name, folder.stat().st_uid, folder.stat().st_gid)
    command(
        cluster, "ALTER SYSTEM SET ssl = on", "ALTER SYSTEM SET ssl_ca_file = 'root.crt'", "SELECT pg_reload_conf()"
    )


def command(cluster: PostgresCluster, *statements: str) -> None:
    async def execute() -> None:
        connection = await asyncpg.connect(cluster.url("postgres"))
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    asyncio.run(execute())


def through_tls(url: str, port: int) -> str:
    """The address of the same server at its other door."""
    scheme, _, rest = url.partition("://")
    login, _, place = rest.rpartition("@")
    return f"{scheme}s://{login}@127.0.0.1:{port}/{place.partition('/')[2]}"


def files(tls: Tls) -> dict[str, Any]:
    return {f"tls_{name}": path for name, path in vars(tls).items()}


# -- all of it ---------------------------------------------------------------------------------------------------------


async def test_a_service_works_with_broker_and_database_over_tls(
    rabbit: RabbitNode, broker: Broker, doors: Doors, secured: PostgresCluster, known: Tls
) -> None:
    administrator = through_tls(broker.url, doors.amqps)
    await topology.apply(administrator, through_tls(rabbit.management_url, doors.https), PASSWORDS, LADDER, known)
    address = administrator.replace(f"{ADMINISTRATOR}:{rabbit.password}", f"stock:{PASSWORDS['stock']}")
    url = f"{secured.url(MUTUAL)}?sslmode=verify-full"
    async with running("stock", address, url, module_of(on_order_placed), **files(known)) as stock:
        spy = await broker.spy(RESERVED)
        await broker.publish(an_order())
        await spy.collect(1)
        async with stock.database.reading() as session:
            assert await session.scalar(text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))


# -- the broker --------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def waiting(address: str, tls: Tls, folder: Path) -> AsyncIterator[Service]:
    """A service that does not get its broker."""
    settings = settings_for("stock", address, f"sqlite:///{folder}/stock.db", **files(tls))
    await asyncio.to_thread(migrate, "stock", settings.database)
    service = Service(settings, module_of(on_order_placed), APIRouter())
    async with service.running():
        yield service


async def refusal(service: Service) -> str:
    """What its readiness says about the broker, once it has tried."""

    async def look() -> str | None:
        said = (await service.checks())["broker"]
        return said if said and ":" in said else None

    return str(await until(look, "a reason"))


async def test_a_broker_of_another_authority_is_refused(
    broker: Broker, doors: Doors, stranger: Tls, tmp_path: Path
) -> None:
    async with waiting(through_tls(broker.url, doors.amqps), stranger, tmp_path) as service:
        said = await refusal(service)
    assert "certificate verify failed: self-signed certificate in certificate chain" in said


async def test_a_broker_under_another_name_is_refused(broker: Broker, doors: Doors, known: Tls, tmp_path: Path) -> None:
    address = through_tls(broker.url, doors.amqps).replace("127.0.0.1", "localhost")
    async with waiting(address, known, tmp_path) as service:
        said = await refusal(service)
    assert "certificate is not valid for 'localhost'" in said


async def test_a_broker_is_tried_again_until_its_certificate_is_good(
    rabbit: RabbitNode, broker: Broker, certificates: Certificates, known: Tls, tmp_path: Path
) -> None:
    """What stands before the node here shows an expired certificate first."""
    shown = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    shown.load_cert_chain(*certificates.issue("127.0.0.1", not_before=LONG_AGO, not_after=LONG_AGO.replace(month=2)))

    async def hand_through(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", rabbit.amqp_port)
        await asyncio.gather(_copy(reader, back), _copy(there, writer))

    async with await asyncio.start_server(hand_through, "127.0.0.1", 0, ssl=shown) as server:
        address = through_tls(broker.url, server.sockets[0].getsockname()[1])
        async with waiting(address, known, tmp_path) as service:
            assert "certificate has expired" in await refusal(service)
            shown.load_cert_chain(*certificates.issue("127.0.0.1"))
            await until(lambda: _is_consuming(service), "the lane to work")


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while some := await reader.read(65536):
            writer.write(some)
            await writer.drain()
    writer.close()


async def _is_consuming(service: Service) -> bool:
    checks = await service.checks()
    return not checks["broker"] and not checks["lane stock"]


# -- the database ------------------------------------------------------------------------------------------------------


async def encrypted(url: str, tls: Tls | None = None) -> bool:
    """Whether a connection is. Raises what prevents it."""
    database = Database(url, tls)
    try:
        async with database.reading() as session:
            return bool(await session.scalar(text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")))
    finally:
        await database.dispose()


@pytest.mark.parametrize(
    ("sslmode", "is_encrypted"), [("disable", False), ("prefer", True), ("require", True), ("verify-ca", True)]
)
async def test_sslmode_means_what_it_means_to_libpq(
    secured: PostgresCluster, certificates: Certificates, sslmode: str, is_encrypted: bool
) -> None:
    """Under a name that its certificate does not have: only verify-full looks at that."""
    url = f"{secured.url(OPEN)}?sslmode={sslmode}".replace("127.0.0.1", "localhost")
    assert await encrypted(url, Tls(certificates.ca)) is is_encrypted


async def test_require_trusts_anybody_unless_it_is_said_whom(secured: PostgresCluster, stranger: Tls) -> None:
    url = f"{secured.url(TLS_ONLY)}?sslmode=require"
    assert await encrypted(url)
    with pytest.raises(Outage, match="certificate verify failed"):
        await encrypted(url, stranger)


async def test_a_database_of_another_authority_is_refused(secured: PostgresCluster, stranger: Tls) -> None:
    for mode in ("verify-ca", "verify-full"):
        for tls in (stranger, None):
            with pytest.raises(Outage, match="certificate verify failed"):
                await encrypted(f"{secured.url(OPEN)}?sslmode={mode}", tls)


async def test_a_database_under_another_name_is_refused(secured: PostgresCluster, known: Tls) -> None:
    url = f"{secured.url(OPEN)}?sslmode=verify-full"
    assert await encrypted(url, known)
    with pytest.raises(Outage, match="certificate is not valid for 'localhost'"):
        await encrypted(url.replace("127.0.0.1", "localhost"), known)


async def test_a_database_with_an_expired_certificate_is_refused(
    secured: PostgresCluster, certificates: Certificates, known: Tls
) -> None:
    url = f"{secured.url(OPEN)}?sslmode=verify-full"
    expired = certificates.issue("127.0.0.1", not_before=LONG_AGO, not_after=LONG_AGO.replace(month=2))
    await asyncio.to_thread(present, secured, certificates.ca, *expired)
    try:
        await until(lambda: _refuses(url, known, "certificate has expired"), "the certificate to be shown")
    finally:
        await asyncio.to_thread(present, secured, certificates.ca, *certificates.issue("127.0.0.1"))
        await until(lambda: encrypted_at_last(url, known), "a good one to be shown")


async def _refuses(url: str, tls: Tls, why: str) -> bool:
    try:
        await encrypted(url, tls)
    except Outage as error:
        return why in str(error)
    return False


async def encrypted_at_last(url: str, tls: Tls) -> bool:
    with contextlib.suppress(Outage):
        return await encrypted(url, tls)
    return False


@pytest.mark.parametrize(
    ("database", "sslmode", "why"),
    [
        (TLS_ONLY, "disable", "pg_hba.conf rejects connection .* no encryption"),
        (MUTUAL, "verify-full", "requires a valid client certificate"),
    ],
)
async def test_who_comes_without_what_the_database_asks_for_is_told(
    secured: PostgresCluster, certificates: Certificates, database: str, sslmode: str, why: str
) -> None:
    with pytest.raises((DBAPIError, Outage), match=why) as refused:
        await encrypted(f"{secured.url(database)}?sslmode={sslmode}", Tls(certificates.ca))
    assert is_outage(refused.value)


# -- HTTPS -------------------------------------------------------------------------------------------------------------


async def test_the_gateway_asks_an_issuer_and_other_services_over_https(
    certificates: Certificates, tmp_path: Path
) -> None:
    key = Ed25519PrivateKey.generate()
    published = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": "one", "use": "sig"}
    other = FastAPI()
    other.get("/keys")(lambda: {"keys": [published]})
    other.get("/v1/orders")(lambda: {"data": [], "has_more": False})
    claims = {"sub": "ana", "role": "customer", "iat": time.time(), "exp": time.time() + 60}
    issued = {"jwt_issuer": "https://issuer.example", "jwt_audience": "malote"}
    claims |= {"iss": issued["jwt_issuer"], "aud": issued["jwt_audience"]}
    login = {"Authorization": f"Bearer {jwt.encode(claims, key, algorithm='EdDSA', headers={'kid': 'one'})}"}
    certificate, private = certificates.issue("127.0.0.1")
    config = uvicorn.Config(other, port=0, log_config=None, ssl_certfile=certificate, ssl_keyfile=private)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    await until(lambda: _is(server.started), "the other one to listen")
    url = f"https://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    told = {"orders_url": url, "jwt_jwks_url": f"{url}/keys", **issued}
    for trusted, status in ((certificates.ca, 200), (None, 503)):
        database = f"sqlite:///{tmp_path}/{status}.db"
        served = serving("gateway", NO_BROKER, database, **told, tls_ca_file=trusted)
        async with served as gateway, gateway.client() as ana:
            assert (await ana.get("/v1/orders", headers=login)).status_code == status
    server.should_exit = True
    await task


async def _is(condition: bool) -> bool:
    return condition
