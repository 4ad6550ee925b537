"""What a container's engine asks, and what it is told."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from deploy.local.ports import free_port
from shared.http import health


class _Service(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/livez" else 503)
        self.end_headers()
        self.wfile.write(self.path.encode())

    def log_message(self, *_: object) -> None:
        """Not on stderr."""


@pytest.fixture
def port() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), _Service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_service_is_well_if_it_says_so(
    port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MALOTE_PORT", str(port))
    assert health.main() == 0
    assert health.main("/readyz") == 1
    assert capsys.readouterr().out == "/livez\n/readyz\n"


def test_a_services_own_port_wins(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE", "orders")
    monkeypatch.setenv("MALOTE_PORT", str(free_port()))
    monkeypatch.setenv("ORDERS_PORT", str(port))
    assert health.main() == 0


def test_the_health_port_is_asked_where_there_is_one(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE", "orders")
    monkeypatch.setenv("ORDERS_PORT", str(free_port()))
    monkeypatch.setenv("MALOTE_HEALTH_PORT", str(port))
    assert health.main() == 0
    monkeypatch.setenv("ORDERS_HEALTH_PORT", str(free_port()))
    assert health.main() == 1, "a service's own wins"


def test_nobody_there_is_not_well_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MALOTE_PORT", str(free_port()))
    assert health.main() == 1
    assert "refused" in capsys.readouterr().out
