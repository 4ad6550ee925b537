"""The real servers that tests run against: one of each a session, a fresh place in them a test."""

import json
import secrets
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from deploy.local.ports import free_port
from deploy.local.postgres import PostgresCluster
from deploy.local.rabbitmq import ADMINISTRATOR, RabbitNode


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitNode]:
    """A running node; a test that kills it starts it again."""
    node = RabbitNode(tmp_path_factory.mktemp("rabbitmq"), free_port(), free_port(), free_port(), secrets.token_hex(8))
    try:
        node.start()
        yield node
    finally:
        node.kill()


@pytest.fixture
def vhost(rabbit: RabbitNode) -> Iterator[str]:
    """An empty vhost of its own, as the administrator's AMQP address."""
    name = f"t{secrets.token_hex(4)}"
    manage(rabbit, "PUT", f"/vhosts/{name}")
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    manage(rabbit, "PUT", f"/permissions/{name}/{ADMINISTRATOR}", everything)
    yield rabbit.url_for(ADMINISTRATOR, rabbit.password, name)
    manage(rabbit, "DELETE", f"/vhosts/{name}")


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresCluster]:
    """A running cluster; a test that kills it starts it again."""
    cluster = PostgresCluster(tmp_path_factory.mktemp("postgres"), free_port())
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database, on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / f'{secrets.token_hex(4)}.db'}"
        return
    cluster: PostgresCluster = request.getfixturevalue("postgres")
    name = f"t{secrets.token_hex(4)}"
    yield cluster.create_database(name)
    cluster.drop_database(name)


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
