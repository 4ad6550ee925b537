"""Dashboards are files: valid, about this project's metrics, and about all of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

from shared.observability import metrics
from tests.deploy.promql import selectors
from tests.deploy.test_prometheus import promtool

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "grafana"
DASHBOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted((FOLDER / "dashboards").glob("*.json"))
}
[SOURCE] = yaml.safe_load((FOLDER / "provisioning/datasources/prometheus.yml").read_text())["datasources"]


def queries(dashboard: dict[str, Any]) -> list[str]:
    """The PromQL of all panels."""
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_can_be_provided(name: str) -> None:
    dashboard = DASHBOARDS[name]
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert dashboard["uid"] == f"malote-{name}"
    assert dashboard["title"].startswith("Malote: ")
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert {panel["datasource"]["uid"] for panel in panels} == {SOURCE["uid"]}
    assert all(panel["title"] and panel["targets"] for panel in panels)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_no_two_panels_lie_on_each_other(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARDS[name]["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_prometheus_understands_every_query(tmp_path: Path) -> None:
    asked = [query for dashboard in DASHBOARDS.values() for query in queries(dashboard)]
    rules = [{"record": "asked", "expr": q.replace("$__rate_interval", "5m"), "labels": {"n": str(n)}}
             for n, q in enumerate(asked)]  # fmt: skip
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    promtool("check", "rules", str(tmp_path / "rules.yml"))


def test_every_metric_of_ours_is_on_a_dashboard() -> None:
    assert metrics.MESSAGES
    ours = {family.name for family in REGISTRY.collect() if family.name.startswith("malote_")}
    asked = {one.name for d in DASHBOARDS.values() for query in queries(d) for one in selectors(query)}
    shown = {name.removesuffix(end) for name in asked for end in ("", "_total", "_bucket", "_count", "_sum")}
    assert ours - shown == set()
