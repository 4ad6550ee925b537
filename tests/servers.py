"""The real servers that tests run against: one of each a session, a fresh place in them a test."""

import json
import secrets
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import trustme

from deploy.local.ports import free_port
from deploy.local.rabbitmq import ADMINISTRATOR, RabbitNode
from tests.postgres import PostgresCluster

_TLS = """\
max_message_size = 134217728
listeners.ssl.default = 127.0.0.1:{doors.amqps}
ssl_options.cacertfile = {ca}
ssl_options.certfile = {certificate}
ssl_options.keyfile = {key}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
management.ssl.ip = 127.0.0.1
management.ssl.port = {doors.https}
management.ssl.cacertfile = {ca}
management.ssl.certfile = {certificate}
management.ssl.keyfile = {key}
"""


@dataclass(frozen=True)
class Certificates:
    """An authority of the tests' own, and what it signed: PEM files."""

    authority: trustme.CA
    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def issue(self, *names: str, **more: Any) -> tuple[Path, Path]:
        """A certificate for these names, and its key."""
        made = self.authority.issue_cert(*names, **more)
        path = self.folder / secrets.token_hex(4)
        certificate, key = path.with_suffix(".pem"), path.with_suffix(".key")
        made.cert_chain_pems[0].write_to_path(str(certificate))
        made.private_key_pem.write_to_path(str(key))
        return certificate, key


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made on the spot."""
    made = Certificates(trustme.CA(), tmp_path_factory.mktemp("certificates"))
    made.authority.cert_pem.write_to_path(str(made.ca))
    return made


@dataclass(frozen=True)
class Doors:
    """Where the node speaks TLS. It shows a certificate that is for 127.0.0.1 and no other name, and for AMQP it wants
    to see one of the same authority."""

    amqps: int
    https: int


@pytest.fixture(scope="session")
def doors() -> Doors:
    return Doors(free_port(), free_port())


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates, doors: Doors) -> Iterator[RabbitNode]:
    """A running node; a test that kills it starts it again."""
    certificate, key = certificates.issue("127.0.0.1")
    secured = _TLS.format(doors=doors, ca=certificates.ca, certificate=certificate, key=key)
    ports = (free_port() for _ in range(4))
    node = RabbitNode(tmp_path_factory.mktemp("rabbitmq"), *ports, secrets.token_hex(8), secured)
    try:
        node.start()
        yield node
    finally:
        node.kill()


@pytest.fixture
def vhost(rabbit: RabbitNode) -> Iterator[str]:
    """An empty vhost of its own, as the administrator's AMQP address."""
    name = f"t{secrets.token_hex(4)}"
    create_vhost(rabbit, name)
    yield rabbit.url_for(ADMINISTRATOR, rabbit.password, name)
    manage(rabbit, "DELETE", f"/vhosts/{name}")


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresCluster]:
    """A running cluster; a test that kills it starts it again.

    It does not wait for the disk: what is written survives the end of a process, though not of the machine."""
    folder = tmp_path_factory.mktemp("postgres")
    cluster = PostgresCluster(folder, free_port(), fsync="off", full_page_writes="off")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database, on SQLite and on PostgreSQL; see `ON_SQLITE`."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / f'{secrets.token_hex(4)}.db'}"
        return
    cluster: PostgresCluster = request.getfixturevalue("postgres")
    name = f"t{secrets.token_hex(4)}"
    yield cluster.create_database(name)
    cluster.drop_database(name)


ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For a test of something else than SQL: what the database is does not matter to it, and one is enough."""


def create_vhost(node: RabbitNode, name: str) -> None:
    """An empty vhost, in which the administrator may do everything."""
    manage(node, "PUT", f"/vhosts/{name}")
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    manage(node, "PUT", f"/permissions/{name}/{ADMINISTRATOR}", everything)


def manage(node: RabbitNode, method: str, path: str, body: object = None) -> object:
    """Ask the management API for `path` (what follows `/api`): its JSON, or None. Raises HTTPError."""
    address = urlsplit(node.management_url)
    login = b64encode(f"{ADMINISTRATOR}:{node.password}".encode()).decode()
    headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
    url = f"http://{address.hostname}:{address.port}/api{quote(path, safe='/%?=&')}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        return json.loads(answer.read() or b"null")
