"""What the gateway can be told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from contracts import published
from services.gateway.settings import GatewaySettings

_FIELDS = """
import pathlib, sys
from contracts import published
published.FOLDER = pathlib.Path(sys.argv[1])
from services.gateway.settings import GatewaySettings
print(*(name for name in GatewaySettings.model_fields if name.endswith("_url")))
"""


def test_it_knows_where_each_service_is_that_clients_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_STOCK_URL", "http://stock:8000")
    settings = GatewaySettings(_env_file=None)
    assert {f"{name}_url" for name in published.owners()} <= set(GatewaySettings.model_fields)
    assert str(settings.orders_url) == "http://127.0.0.1:8001/"
    assert str(settings.stock_url) == "http://stock:8000/"


def test_a_new_service_with_public_paths_needs_no_edit_of_the_gateway(tmp_path: Path) -> None:
    for name, path in (("loyalty", "/v1/points"), ("weather", "/livez")):
        (tmp_path / f"{name}.json").write_text(json.dumps({"paths": {path: {}}}))
    found = subprocess.run([sys.executable, "-c", _FIELDS, tmp_path], capture_output=True, text=True, check=True)
    assert "loyalty_url" in found.stdout.split()
    assert "weather_url" not in found.stdout.split()
