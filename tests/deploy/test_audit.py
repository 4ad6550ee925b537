"""`make audit` finds what a service knows, and says so where there is none: asked of a service of the tests' own."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests import audit

KNOWN: dict[str, list[str]] = {}


class Osv(BaseHTTPRequestHandler):
    """Speaks as https://google.github.io/osv.dev/post-v1-query/ has it."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        body = json.dumps(self._about(asked["package"]["name"])).encode()
        self.send_response(200 if KNOWN else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _about(self, name: str) -> dict[str, Any]:
        package = {"name": name, "ecosystem": "PyPI"}
        affected = [{"package": package, "ranges": [{"type": "ECOSYSTEM", "events": [{"fixed": "999.1"}]}]}]
        vulns = [{"id": found, "summary": "bad", "affected": affected} for found in KNOWN.get(name, [])]
        return {"vulns": vulns} if vulns else {}

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Osv) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PIP_AUDIT_VULNERABILITY_SERVICE", "osv")
        monkeypatch.setenv("PIP_AUDIT_OSV_URL", f"http://127.0.0.1:{server.server_address[1]}/v1/query")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield
        KNOWN.clear()
        server.shutdown()


def test_what_nothing_is_known_of_is_clean(capsys: pytest.CaptureFixture[str]) -> None:
    KNOWN["jinja2"] = ["PYSEC-2014-8"]
    audit_of(["fastapi==0.165.0", "orjson==3.13.0"], audit.CLEAN)
    assert capsys.readouterr().out == "audited 2 packages: 0 known vulnerabilities\n"


def test_what_is_known_to_be_vulnerable_is_named_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    KNOWN.update({"jinja2": ["PYSEC-2014-8"], "orjson": ["PYSEC-2026-1"]})
    audit_of(["fastapi==0.165.0", "orjson==3.13.0"], audit.VULNERABLE)
    assert "orjson 3.13.0: PYSEC-2026-1, mended in 999.1\n" in capsys.readouterr().out


def test_a_vulnerability_that_was_judged_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    KNOWN.update({"jinja2": ["PYSEC-2014-8"], "orjson": ["PYSEC-2026-1"]})
    monkeypatch.setitem(audit.ACCEPTED, "PYSEC-2026-1", "a reason")
    audit_of(["orjson==3.13.0"], audit.CLEAN)


@pytest.mark.parametrize("known", [{}, {"somebody-else": ["PYSEC-1"]}], ids=["it fails", "it knows nothing"])
def test_a_service_that_is_of_no_use_is_no_clean_bill(
    known: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    KNOWN.update(known)
    audit_of(["fastapi==0.165.0"], audit.NOT_ASKED)
    assert capsys.readouterr().err.startswith("NOT AUDITED: ")


def audit_of(packages: list[str], outcome: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "shipped", lambda: "\n".join(packages))
        assert audit.main() == outcome


def test_the_lock_is_what_is_audited_and_nothing_that_only_we_need() -> None:
    names = {line.partition("==")[0] for line in audit.shipped().splitlines()}
    assert {"fastapi", "limits", "redis", "weasyprint", "typer"} <= names
    assert not {"pytest", "pip-audit", "celery", "malote"} & names
