"""What dashboards and alerts ask for is what the running services and their broker expose."""

import time
import urllib.request
from collections import defaultdict

import pytest
from prometheus_client.parser import text_string_to_metric_families

from contracts.broker import queue_of
from contracts.flow import LANES, SERVICES
from shared.observability import metrics
from tests.deploy.promql import selectors
from tests.deploy.test_grafana import DASHBOARDS, queries
from tests.deploy.test_prometheus import ALERTS
from tests.e2e.conftest import Fleet

OF_THE_SCRAPE = {"job", "instance", "service"}
"""Labels that Prometheus adds to what it finds."""
OF_PROMETHEUS = {"up", "ALERTS"}
ASKED = {
    **{f"alert {name}": [rule["expr"]] for name, rule in ALERTS.items()},
    **{f"dashboard {name}": queries(dashboard) for name, dashboard in DASHBOARDS.items()},
}

Exposed = dict[str, list[dict[str, str]]]


@pytest.fixture(scope="module")
def exposed(fleet: Fleet) -> Exposed:
    """Every sample's name, with the labels under which it is found, after an order has gone all its way."""
    fleet.malote("orders", "place", "--sku", "COFFEE-1KG:1", "--wait", "20")
    broker = f"http://127.0.0.1:{fleet.environment['MALOTE_METRICS_PORT']}"
    lanes = f"{broker}/metrics/detailed?family=queue_coarse_metrics&family=queue_consumer_count"
    services = [f"http://127.0.0.1:{service['port']}/metrics" for service in fleet.status["services"]]
    [email] = [f"http://127.0.0.1:{s['port']}/metrics" for s in fleet.status["services"] if s["name"] == "email"]
    _wait_for('queue="lane.orders"', lanes)  # the broker looks every five seconds
    _wait_for('malote_waiting_seconds_count{lane="email.outgoing"', email)
    found: Exposed = defaultdict(list)
    for url in (*services, f"{broker}/metrics", lanes):
        for family in text_string_to_metric_families(_get(url)):
            found[family.name] += []  # a metric that has had nothing to say is there all the same
            for sample in family.samples:
                found[sample.name].append(sample.labels)
    return found


def _wait_for(text: str, url: str) -> None:
    end = time.monotonic() + 20
    while text not in _get(url):
        assert time.monotonic() < end, f"{url} does not say {text}"
        time.sleep(0.1)


def _get(url: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
        text: str = answer.read().decode()
    return text


@pytest.mark.parametrize("where", ASKED)
def test_what_is_asked_for_is_exposed(exposed: Exposed, where: str) -> None:
    for query in ASKED[where]:
        for one in selectors(query):
            if one.name in OF_PROMETHEUS:
                continue
            assert one.name in exposed, f"nobody exposes {one.name}"
            for label, operator, value in one.matchers:
                known = {labels[label] for labels in exposed[one.name] if label in labels}
                missing = label not in OF_THE_SCRAPE and exposed[one.name] and not known
                assert not missing, f"{one.name} has no label {label}"
                assert operator != "=" or label in OF_THE_SCRAPE or value in known, f"no {one.name} has {label}={value}"


def test_every_lane_and_service_tells_of_itself(exposed: Exposed) -> None:
    assert {labels["lane"] for labels in exposed["malote_lane_paused"]} >= set(LANES)
    assert {labels["service"] for labels in exposed["malote_outbox_oldest_seconds"]} == set(SERVICES)
    assert {labels["queue"] for labels in exposed["rabbitmq_detailed_queue_consumers"]} >= set(map(queue_of, LANES))


def test_the_lanes_that_an_order_passes_say_how_long_it_waited_and_was_handled(exposed: Exposed) -> None:
    passed = {"orders", "stock", "email", "email.outgoing", "gateway"}
    assert {labels["lane"] for labels in exposed["malote_waiting_seconds_count"]} >= passed
    assert {labels["lane"] for labels in exposed["malote_handling_seconds_count"]} >= passed


def test_labels_are_bounded_by_the_code(exposed: Exposed) -> None:
    for family in (metrics.MESSAGES, metrics.WAITING_SECONDS, metrics.HTTP_SECONDS, metrics.JOBS_ENDED):
        assert len(exposed[family._name]) < 2_000
    assert not [labels for labels in exposed["malote_http_seconds_count"] if "?" in labels["route"]]
