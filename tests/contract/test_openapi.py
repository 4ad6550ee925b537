"""The OpenAPI documents of all services, as tools read them: validators, generators of clients, /docs."""

import importlib
import importlib.util
import json
import subprocess
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fastapi import APIRouter
from fastapi.routing import iter_route_contexts
from openapi_spec_validator import OpenAPIV31SpecValidator

from contracts import published
from contracts.flow import SERVICES
from contracts.reports import MEDIA_TYPES
from shared.docs import openapi
from shared.http.body import Route
from shared.service import Service
from tests.nodejs import program
from tests.running import settings_for
from tests.serving import NO_BROKER


def api_of(service: str) -> ModuleType | None:
    """A service without routes of its own has no `api.py`."""
    has_one = importlib.util.find_spec(f"services.{service}.api")
    return importlib.import_module(f"services.{service}.api") if has_one else None


def document(service: str) -> dict[str, Any]:
    """What a service answers at /openapi.json."""
    api = api_of(service)
    return served(service, api.router if api else None)


def served(service: str, router: APIRouter | None) -> dict[str, Any]:
    settings = settings_for(service, NO_BROKER, f"sqlite:///{tempfile.gettempdir()}/unused.db")
    return Service(settings, importlib.import_module(f"services.{service}.handlers"), router).app.openapi()


DOCUMENTS = published.committed()


@pytest.mark.parametrize("service", SERVICES)
def test_the_committed_document_is_what_the_service_answers(service: str) -> None:
    assert DOCUMENTS[service] == document(service), "run `make docs`"


def test_only_services_have_committed_documents() -> None:
    assert set(DOCUMENTS) == set(SERVICES)


def test_the_public_document_has_all_that_services_publish() -> None:
    for service in SERVICES:
        for path, operations in published.public(DOCUMENTS[service]).items():
            assert DOCUMENTS["gateway"]["paths"][path].items() >= operations.items()


def test_two_services_cannot_say_different_things_of_one_name() -> None:
    other = json.loads(json.dumps(DOCUMENTS["orders"]))
    other["components"]["schemas"]["Money"]["description"] = "something else"
    with pytest.raises(ValueError, match="'Money'"):
        openapi.merge(json.loads(json.dumps(DOCUMENTS["gateway"])), [other])


@pytest.mark.parametrize("service", SERVICES)
def test_a_document_is_valid(service: str) -> None:
    OpenAPIV31SpecValidator(DOCUMENTS[service]).validate()


def test_a_service_without_routes_of_its_own_has_a_valid_document_too() -> None:
    OpenAPIV31SpecValidator(served("stock", None)).validate()


def test_redoclys_rules_find_nothing_wrong(tmp_path: Path) -> None:
    for service, found in DOCUMENTS.items():
        (tmp_path / f"{service}.json").write_text(json.dumps(found))
    files = sorted(map(str, tmp_path.glob("*.json")))
    done = subprocess.run(program("openapi.mjs", *files), capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_a_download_is_documented_with_every_type_that_a_report_may_have() -> None:
    answers = DOCUMENTS["gateway"]["paths"]["/v1/reports/{report_id}/download"]["get"]["responses"]
    wanted = {media.partition(";")[0] for media in MEDIA_TYPES.values()}
    assert set(answers["200"]["content"]) == set(answers["206"]["content"]) == wanted


@pytest.mark.parametrize("service", SERVICES)
def test_every_error_is_a_problem_and_every_open_route_says_that_it_is_open(service: str) -> None:
    for path in DOCUMENTS[service]["paths"].values():
        for operation in path.values():
            said = operation["responses"]["4XX"]["content"]["application/problem+json"]["schema"]
            assert said == {"$ref": "#/components/schemas/ProblemDetails"}
            assert "security" in operation


@pytest.mark.parametrize("service", SERVICES)
def test_every_route_reads_its_body_in_the_one_way(service: str) -> None:
    if api := api_of(service):
        routes = [found.original_route for found in iter_route_contexts(api.router.routes)]
        assert routes
        assert {type(route) for route in routes} == {Route}


@pytest.mark.parametrize("service", SERVICES)
def test_every_id_in_a_path_says_what_it_looks_like_for_anything_else_is_not_found(service: str) -> None:
    for path, operations in DOCUMENTS[service]["paths"].items():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path" and parameter["name"].endswith("_id"):
                    assert parameter["schema"].get("pattern"), (path, parameter["name"])


@pytest.mark.parametrize("service", SERVICES)
def test_the_kernels_routes_keep_the_names_that_generated_clients_call_them_by(service: str) -> None:
    paths = DOCUMENTS[service]["paths"]
    names = {path: paths[path]["get"]["operationId"] for path in ("/livez", "/readyz", "/metrics")}
    assert names == {"/livez": "livez_livez_get", "/readyz": "readyz_readyz_get", "/metrics": "metrics_metrics_get"}
