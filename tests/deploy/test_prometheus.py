"""Alerts and scrapes: valid by Prometheus' own tool, each alert tried both ways, each with a word on what to do."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from contracts.flow import LANES, SERVICES
from deploy.local import install
from tests.deploy.dockerfile import DOCKERFILE, stages
from tests.deploy.promql import selectors

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
PORT_NAME = "__meta_kubernetes_pod_container_port_name"
ALERTS: dict[str, Any] = {
    rule["alert"]: rule
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}
EXPECTED = [
    expected
    for test in yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
    for expected in test["promql_expr_test"]
]


def promtool(*arguments: str) -> str:
    """Run Prometheus' own tool in the folder of its files; return what it printed."""
    if shutil.which("promtool") is None:
        install.package("prometheus")
    done = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_its_configuration_and_the_rules() -> None:
    assert f"{len(ALERTS)} rules found" in promtool("check", "config", "prometheus.yml")


def test_prometheus_takes_its_configuration_for_kubernetes(tmp_path: Path) -> None:
    """But for the discovery itself, which Debian's build of Prometheus leaves out."""
    shutil.copy(FOLDER / "alerts.yml", tmp_path)
    discovery = "kubernetes_sd_configs:\n      - {role: pod, namespaces: {names: [malote]}}\n"
    found = (FOLDER / "kubernetes.yml").read_text()
    assert found.count(discovery) == 3
    (tmp_path / "kubernetes.yml").write_text(found.replace(discovery, "static_configs: []\n"))
    promtool("check", "config", str(tmp_path / "kubernetes.yml"))


def test_alerts_fire_when_they_should_and_only_then() -> None:
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_is_tried_both_ways(alert: str) -> None:
    query = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
    outcomes = [bool(expected["exp_samples"]) for expected in EXPECTED if expected["expr"] == query]
    assert set(outcomes) == {True, False}


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_how_urgent_it_is_and_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/running.md#{alert.lower()}"


@pytest.mark.parametrize("alert", ALERTS)
def test_the_words_of_an_alert_name_only_labels_that_it_has(alert: str) -> None:
    named = set(re.findall(r"\$labels\.(\w+)", str(ALERTS[alert]["annotations"])))
    fired = [selectors(sample["labels"])[0] for expected in EXPECTED for sample in expected["exp_samples"]]
    labels = [{label for label, _, _ in one.matchers} for one in fired if ("alertname", "=", alert) in one.matchers]
    assert labels
    assert named <= labels[0]


@pytest.mark.parametrize("alert", ALERTS)
def test_the_operators_manual_has_a_heading_for_an_alert(alert: str) -> None:
    manual = (ROOT / "docs" / "running.md").read_text()
    assert re.search(rf"^#{{2,4}} {alert}$", manual, re.MULTILINE), (
        f"docs/running.md does not say what {alert} asks for"
    )


def test_alerts_and_dashboards_are_about_our_own_lanes_and_services_and_all_of_them() -> None:
    """Other teams have queues on the same broker, which they may leave without a consumer as they please."""
    dashboards = [json.loads(path.read_text()) for path in (ROOT / "deploy/grafana/dashboards").glob("*.json")]
    shown = [target["expr"] for d in dashboards for panel in d["panels"] for target in panel.get("targets", ())]
    asked = [one for query in [*shown, *(rule["expr"] for rule in ALERTS.values())] for one in selectors(query)]
    lanes = "|".join(LANES).replace(".", r"\\.")
    ours = {rf"lane\\.({lanes})", rf"lane\\.({lanes})\\.dlq", r"wait\\..+", r"lane\\.($lane)"}
    queues = [one.matchers for one in asked if one.name.startswith("rabbitmq_detailed_queue")]
    used = {matcher for matchers in queues for matcher in matchers}
    strange = used ^ {("queue", "=~", value) for value in ours}
    assert not strange, (
        f"where alerts.yml and the dashboards of deploy/grafana name lanes, it is `lane\\\\.({lanes})`, all in order"
    )
    assert all(queues)
    named = [matcher for one in selectors(ALERTS["ServiceDown"]["expr"]) for matcher in one.matchers]
    watched = {value for label, _, value in named if label == "service"}
    assert watched == set(SERVICES), "run `make deploy`"


def test_each_service_is_scraped() -> None:
    [job] = [one for one in _jobs("prometheus.yml") if one["job_name"] == "malote"]
    names = {name for found in job["dns_sd_configs"] for name in found["names"]}
    there = {path.parent.name for path in (ROOT / "services").glob("*/handlers.py")}
    assert names == there, "run `make deploy`"


@pytest.mark.parametrize("file", ["prometheus.yml", "kubernetes.yml"])
def test_the_broker_is_asked_for_itself_and_for_each_queue(file: str) -> None:
    jobs = {job["job_name"]: job for job in _jobs(file)}
    assert set(jobs) == {"malote", "rabbitmq", "rabbitmq-lanes"}
    assert jobs["rabbitmq-lanes"]["metrics_path"] == "/metrics/detailed"
    assert jobs["rabbitmq-lanes"]["params"] == {"family": ["queue_coarse_metrics", "queue_consumer_count"]}


def test_on_kubernetes_only_our_own_namespace_is_watched() -> None:
    namespace = yaml.safe_load((ROOT / "deploy/k8s/overlays/production/platform/namespace.yaml").read_text())
    for job in _jobs("kubernetes.yml"):
        assert job["kubernetes_sd_configs"] == [
            {"role": "pod", "namespaces": {"names": [namespace["metadata"]["name"]]}}
        ]


def test_services_are_scraped_at_the_port_that_their_images_have_for_it() -> None:
    said = " ".join(step.text for step in stages(DOCKERFILE.read_text())[1]["runtime"][1] if step.word == "ENV")
    compose, kubernetes = (
        next(job for job in _jobs(file) if job["job_name"] == "malote") for file in ("prometheus.yml", "kubernetes.yml")
    )
    for found in compose["dns_sd_configs"]:
        assert f"MALOTE_HEALTH_PORT={found['port']}" in said.split()
    named = [rule for rule in kubernetes["relabel_configs"] if rule["source_labels"] == [PORT_NAME]]
    assert [rule["regex"] for rule in named] == ["health"], "the name that deploy/k8s gives it"


def _jobs(file: str) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = yaml.safe_load((FOLDER / file).read_text())["scrape_configs"]
    return jobs
