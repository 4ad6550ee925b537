"""deploy/k8s: every overlay renders, is valid, and says of lanes, users and settings what the code says."""

import functools
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.routing import APIRoute
from kubernetes_validate import utils  # type: ignore[import-untyped]

from contracts.broker import queue_of
from contracts.flow import LANES, MONITOR, SERVICES, SHOP, service_of
from services.gateway.api import pages
from shared.config.settings import ServiceSettings
from tests.contract.test_settings import CLASSES
from tests.deploy.dockerfile import DOCKERFILE, stages

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy/k8s"
OVERLAYS = ("dev", "production")
NEWEST = "1.37"
# https://github.com/rabbitmq/cluster-operator/blob/main/docs/api/rabbitmq.com.ref.asciidoc: RabbitmqClusterSpec and,
# of those of its fields that have fields of their own, these.
RABBITMQ_CLUSTER: dict[str, Any] = {
    "replicas": int,
    "image": str,
    "imagePullSecrets": list,
    "service": {"type": str, "annotations": dict},
    "persistence": {"storageClassName": str, "storage": str},
    "resources": dict,
    "affinity": dict,
    "tolerations": list,
    "rabbitmq": {"additionalPlugins": list, "additionalConfig": str, "advancedConfig": str, "envConfig": str},
    "tls": {"secretName": str, "caSecretName": str, "disableNonTLSListeners": bool},
    "override": {"statefulSet": dict, "service": dict},
    "skipPostDeploySteps": bool,
    "terminationGracePeriodSeconds": int,
    "delayStartSeconds": int,
}
Manifest = dict[str, Any]
LISTED = "run `make deploy`"


@functools.cache
def rendered(folder: str) -> tuple[Manifest, ...]:
    """What `kubectl apply -k` would send."""
    assert (FOLDER / folder).is_dir(), f"there is no deploy/k8s/{folder}: run `make deploy`"
    command = [str(ROOT / ".venv/bin/kubectl"), "kustomize", str(FOLDER / folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    return tuple(yaml.load_all(done.stdout, yaml.CSafeLoader))


def of(kind: str, folder: str) -> dict[str, Manifest]:
    return {m["metadata"]["name"]: m for m in rendered(folder) if m["kind"] == kind}


def pods(folder: str) -> dict[str, Manifest]:
    """The pod templates of our own images."""
    made = [m for kind in ("Deployment", "Job") for m in of(kind, folder).values()]
    specs = {m["metadata"]["name"]: m["spec"]["template"]["spec"] for m in made}
    return {name: spec for name, spec in specs.items() if "malote/" in spec["containers"][0]["image"]}


def containers(spec: Manifest) -> list[Manifest]:
    return [*spec.get("initContainers", []), *spec["containers"]]


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("folder", ["base", "overlays/production"])
def test_every_service_has_its_folder(folder: str, service: str) -> None:
    assert rendered(f"{folder}/{service}")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_kubernetes_knows_is_valid_by_its_own_schemas(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # it would read megabytes of JSON for each manifest
    monkeypatch.setattr(utils, "schema_contents", functools.cache(utils.schema_contents))
    known = [
        m for m in rendered(f"overlays/{overlay}") if m["apiVersion"].split("/")[0] not in ("keda.sh", "rabbitmq.com")
    ]
    assert len(known) > 30
    for manifest in known:
        utils.validate(manifest, NEWEST, strict=True)


def test_what_keda_reads_is_valid_and_has_no_field_that_it_does_not_know() -> None:
    from cloudcoil.models.keda.v1alpha1 import ScaledObject, TriggerAuthentication  # slow, so not for every collection

    keda = {"ScaledObject": ScaledObject, "TriggerAuthentication": TriggerAuthentication}
    found = [m for m in rendered("overlays/production") if m["kind"] in keda]
    assert len(found) == len(SERVICES) + 1, LISTED
    for manifest in found:
        read = keda[manifest["kind"]].model_validate(manifest)
        assert read.model_dump(by_alias=True, exclude_unset=True, mode="json") == manifest


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_broker_has_only_fields_that_its_operator_documents(overlay: str) -> None:
    (broker,) = of("RabbitmqCluster", f"overlays/{overlay}").values()
    assert broker["apiVersion"] == "rabbitmq.com/v1beta1"
    _is_documented(broker["spec"], RABBITMQ_CLUSTER, "spec")
    template = broker["spec"]["override"]["statefulSet"]["spec"]["template"]["spec"]
    assert [c["name"] for c in containers(template)] == ["setup-container", "rabbitmq"]  # the operator's own
    assert broker["spec"]["replicas"] == (3 if overlay == "production" else 1)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_brokers_disk_can_be_freer_than_what_it_raises_an_alarm_at(overlay: str) -> None:
    (broker,) = of("RabbitmqCluster", f"overlays/{overlay}").values()
    (share,) = re.findall(r"disk_free_limit\.relative = (\S+)", broker["spec"]["rabbitmq"]["additionalConfig"])
    disk, memory = broker["spec"]["persistence"]["storage"], broker["spec"]["resources"]["limits"]["memory"]
    assert int(disk.removesuffix("Gi")) >= 4 * float(share) * int(memory.removesuffix("Gi"))


def _is_documented(found: Manifest, documented: dict[str, Any], where: str) -> None:
    for name, value in found.items():
        assert name in documented, f"{where}.{name}"
        if isinstance(documented[name], dict):
            _is_documented(value, documented[name], f"{where}.{name}")
        else:
            assert isinstance(value, documented[name]), f"{where}.{name}"


def test_every_lane_scales_its_service_by_what_waits_and_what_is_being_worked_on() -> None:
    scaled = of("ScaledObject", "overlays/production")
    triggers = {
        (name, trigger["metadata"]["queueName"]): trigger
        for name, manifest in scaled.items()
        for trigger in manifest["spec"]["triggers"]
        if trigger["type"] == "rabbitmq"
    }
    missing = {(service_of(lane), queue_of(lane)) for lane in LANES} - triggers.keys()
    assert not missing, f"there is no trigger for {missing}: {LISTED}"
    assert len(triggers) == len(LANES)
    for trigger in triggers.values():
        told = trigger["metadata"]
        # only over HTTP does KEDA count unacknowledged messages; without them it stops processes that are at work
        assert (told["protocol"], told["mode"], told["excludeUnacknowledged"]) == ("http", "QueueLength", "false")
        assert int(told["value"]) > 0
        assert trigger["authenticationRef"] == {"name": "rabbitmq"}
    for name, manifest in scaled.items():
        assert manifest["spec"]["scaleTargetRef"] == {"name": name}
        assert manifest["spec"]["minReplicaCount"] >= 1, "nobody would answer its HTTP"
        assert "replicas" not in of("Deployment", "overlays/production")[name]["spec"]


def test_every_service_is_there_with_all_that_it_needs_and_can_be_applied_by_itself() -> None:
    together = {(m["kind"], m["metadata"]["name"]): m for m in rendered("overlays/production")}
    alone: dict[tuple[str, str], Manifest] = {}
    for service in SERVICES:
        own = rendered(f"overlays/production/{service}")
        names = {(m["kind"], m["metadata"]["name"]) for m in own}
        needed = {("Deployment", service), ("Service", service), ("PodDisruptionBudget", service)}
        needed |= {("NetworkPolicy", service), ("ScaledObject", service), ("Job", f"{service}-migrate")}
        assert needed <= names
        assert not names & set(alone), "two services share something"
        assert {kind for kind, _ in names - needed} <= {"ConfigMap", "NetworkPolicy"}
        alone |= {(m["kind"], m["metadata"]["name"]): m for m in own}
    platform = {(m["kind"], m["metadata"]["name"]): m for m in rendered("overlays/production/platform")}
    assert together == alone | platform, LISTED
    assert set(SERVICES) == {path.name for path in (FOLDER / "base").iterdir()} - {"platform"}


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_is_left_of_the_names_that_all_services_are_made_from(service: str) -> None:
    for manifest in rendered(f"base/{service}"):
        spec = manifest["spec"].get("template", {}).get("spec", {}) if "spec" in manifest else {}
        for container in containers(spec) if spec else []:
            assert container["image"] == f"malote/{service}"
        selectors = [manifest.get("spec", {}).get(name) or {} for name in ("selector", "podSelector")]
        for selector in selectors:
            labels = selector.get("matchLabels", selector)
            assert labels.get("app.kubernetes.io/name", service) == service
        assert manifest["metadata"]["name"].split("-")[0] == service
    spec = pods(f"base/{service}")[service]
    secrets = next(volume for volume in spec["volumes"] if volume["name"] == "secrets")
    assert secrets["projected"]["sources"][0] == {"secret": {"name": service}}


def test_services_and_budgets_reach_the_processes_that_serve_and_not_the_one_that_migrates() -> None:
    for service in SERVICES:
        folder = f"base/{service}"
        serving = of("Deployment", folder)[service]["spec"]
        migrating = of("Job", folder)[f"{service}-migrate"]["spec"]["template"]["metadata"]["labels"]
        labels = serving["template"]["metadata"]["labels"]
        selectors = [serving["selector"]["matchLabels"], of("Service", folder)[service]["spec"]["selector"]]
        selectors.append(of("PodDisruptionBudget", folder)[service]["spec"]["selector"]["matchLabels"])
        for selector in selectors:
            assert selector.items() <= labels.items()
            assert not selector.items() <= migrating.items()
        policy = of("NetworkPolicy", folder)[service]["spec"]["podSelector"]["matchLabels"]
        assert policy.items() <= labels.items()
        assert policy.items() <= migrating.items()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_whatever_runs_is_nobody_may_write_nowhere_and_has_limits(overlay: str) -> None:
    found = pods(f"overlays/{overlay}")
    assert len(found) == 2 * len(SERVICES) + 1, LISTED
    uid = 10001
    assert f"useradd --uid {uid}" in DOCKERFILE.read_text()
    for spec in found.values():
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] == uid
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False  # ORDERS_PORT=tcp://… is no port
        for container in containers(spec):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
            }  # fmt: skip
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "memory" in container["resources"]["limits"]
            assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_whatever_runs_may_run_under_the_strictest_pod_security(overlay: str) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
    found = rendered(f"overlays/{overlay}")
    [namespace] = [m["metadata"]["labels"] for m in found if m["kind"] == "Namespace"]
    assert namespace["pod-security.kubernetes.io/enforce"] == "restricted"
    specs = [m["spec"]["template"]["spec"] for m in found if m["kind"] in ("Deployment", "Job")]
    [broker] = of("RabbitmqCluster", f"overlays/{overlay}").values()
    for spec in [*specs, broker["spec"]["override"]["statefulSet"]["spec"]["template"]["spec"]]:
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        allowed = {"name", "projected", "emptyDir", "configMap", "secret", "persistentVolumeClaim"}
        assert all(volume.keys() <= allowed for volume in spec.get("volumes", []))
        for container in containers(spec):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert not any("hostPort" in port for port in container.get("ports", []))


def test_the_dev_overlay_lets_no_service_into_anothers_database() -> None:
    """As deploy/compose/databases.sh: PostgreSQL lets everybody connect to a new database."""
    said = next(m["data"]["databases.sql"] for m in rendered("overlays/dev") if "databases.sql" in m.get("data", {}))
    for service in SERVICES:
        made = said.find(f"CREATE DATABASE {service} OWNER {service};")
        assert made > 0, f"deploy/k8s/overlays/dev/databases.sql does not make the role and the database {service}"
        assert said.index(f"REVOKE CONNECT ON DATABASE {service} FROM PUBLIC;") > made
    assert "REVOKE CONNECT ON DATABASE %I FROM PUBLIC" in (ROOT / "deploy/compose/databases.sh").read_text()


def test_a_process_is_asked_at_the_port_and_paths_that_there_are_and_has_time_to_stop() -> None:
    _, built = stages(DOCKERFILE.read_text())
    assert any(step.word == "EXPOSE" and step.text == "8000 9000" for step in built["service"][1])
    told = " ".join(step.text for step in built["runtime"][1] if step.word == "ENV")
    assert {"MALOTE_PORT=8000", "MALOTE_HEALTH_PORT=9000"} <= set(told.split())
    grace = ServiceSettings.model_fields["grace_seconds"].default
    for service in SERVICES:
        spec = pods(f"base/{service}")[service]
        container = spec["containers"][0]
        ports = [{"name": "http", "containerPort": 8000}, {"name": "health", "containerPort": 9000}]
        assert container["ports"] == ports
        asked = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
        assert {get["port"] for get in asked.values()} == {"health"}
        # once ready it keeps its requests, broker or not; the gateway accepts orders without one from its start
        ready = "/readyz?only=database" if service == "gateway" else "/readyz"
        assert [asked[kind]["path"] for kind in ("startup", "readiness", "liveness")] == [ready, "/livez", "/livez"]
        waiting = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert spec["terminationGracePeriodSeconds"] > waiting + grace + 3


def test_what_operates_a_service_is_told_at_a_port_that_only_prometheus_reaches() -> None:
    policies = of("NetworkPolicy", "overlays/production")
    for service in SERVICES:
        serving = of("Deployment", f"base/{service}")[service]["spec"]["template"]
        scraped = serving["metadata"]["annotations"]
        assert (scraped["prometheus.io/port"], scraped["prometheus.io/path"]) == ("9000", "/metrics")
        [port] = of("Service", f"base/{service}")[service]["spec"]["ports"]
        assert (port["port"], port["targetPort"]) == (8000, "http")
        own = [p["spec"] for p in policies.values() if _is_about(p, service)]
        opened = [(peer, port["port"]) for p in own for rule in p.get("ingress", ()) for peer in rule["from"]
                  for port in rule["ports"]]  # fmt: skip
        monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
        assert [peer for peer, port in opened if port == "health"] == [monitoring]
        assert [port for peer, port in opened if peer == monitoring] == ["health"]
        assert {port for _, port in opened} <= {"http", "health"}


def test_images_come_from_the_overlays_registry_or_were_loaded_and_never_from_strangers() -> None:
    for spec in pods("overlays/dev").values():
        assert {container["imagePullPolicy"] for container in containers(spec)} == {"Never"}
    for spec in pods("overlays/production").values():
        assert all(container["image"].startswith("registry.example.com/malote/") for container in containers(spec))


def test_no_new_code_meets_old_tables_and_each_image_migrates_its_own() -> None:
    for service in SERVICES:
        waits = pods(f"base/{service}")[service]["initContainers"][0]
        migrates = pods(f"base/{service}")[f"{service}-migrate"]["containers"][0]
        assert waits["command"] == ["python", "-m", "shared.migrations", "--wait"]
        assert migrates["command"] == ["python", "-m", "shared.migrations"]
        assert waits["image"] == migrates["image"] == f"malote/{service}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_setting_is_one_that_its_service_has(overlay: str) -> None:
    everybodys = {field.upper() for settings in CLASSES.values() for field in settings.model_fields}
    maps = {name.rsplit("-", 1)[0]: m["data"] for name, m in of("ConfigMap", f"overlays/{overlay}").items()}
    for name, told in maps.items():
        for variable in told if name in SERVICES or name == "malote" else []:
            prefix, _, field = variable.partition("_")
            assert prefix == name.upper()
            assert field in (everybodys if name == "malote" else {f.upper() for f in CLASSES[name].model_fields})
    for service in SERVICES:
        for other in SERVICES:
            if f"{other}_url" in CLASSES[service].model_fields:
                assert maps[service][f"{service.upper()}_{other.upper()}_URL"] == f"http://{other}:8000"


def test_secrets_are_files_named_like_settings_and_dev_shows_each_that_is_asked_for() -> None:
    shown = {name.rsplit("-", 1)[0]: set(m["data"]) for name, m in of("Secret", "overlays/dev").items()}
    for service in SERVICES:
        wanted = {f"{service.upper()}_AMQP_URL", f"{service.upper()}_DATABASE_URL"}
        in_dev = f"deploy/k8s/overlays/dev/kustomization.yaml has no Secret {service} with {wanted}"
        assert wanted <= shown.get(service, set()), in_dev
        assert {key.removeprefix(f"{service.upper()}_").lower() for key in shown[service]} <= set(
            CLASSES[service].model_fields
        )
    by_operator_or_storage = {"rabbitmq-default-user", "reports-storage"}
    assert _secrets_asked_for("overlays/production") - by_operator_or_storage == set(shown)


def _secrets_asked_for(folder: str) -> set[str]:
    found: set[str] = set()
    for spec in pods(folder).values():
        for volume in spec["volumes"]:
            found |= {source["secret"]["name"] for source in volume.get("projected", {}).get("sources", [])}
        for container in containers(spec):
            found |= {e["secretRef"]["name"] for e in container.get("envFrom", []) if "secretRef" in e}
            refs = [e.get("valueFrom", {}).get("secretKeyRef") for e in container.get("env", [])]
            found |= {ref["name"] for ref in refs if ref}
    for manifest in of("TriggerAuthentication", folder).values():
        found |= {ref["name"] for ref in manifest["spec"]["secretTargetRef"]}
    return found


def test_the_topology_is_told_every_users_password_and_nobodys_database() -> None:
    spec = pods("base/platform")["topology"]
    sources = spec["volumes"][0]["projected"]["sources"]
    keys = {item["key"]: source["secret"]["name"] for source in sources for item in source["secret"].get("items", [])}
    for name in (*SERVICES, SHOP):
        missing = f"deploy/k8s/base/platform/topology.yaml has no {name.upper()}_AMQP_URL of the Secret {name}"
        assert keys.get(f"{name.upper()}_AMQP_URL") == name, missing
    assert len(keys) == len(SERVICES) + 1
    told = {entry["name"]: entry for entry in spec["containers"][0]["env"]}
    assert told["AMQP_MONITOR_PASSWORD"]["valueFrom"]["secretKeyRef"] == {"name": MONITOR, "key": "password"}
    assert told["AMQP_URL"]["value"] == "amqp://$(BROKER_USER):$(BROKER_PASSWORD)@rabbitmq:5672/"


def test_whatever_no_policy_names_is_refused_and_calls_go_where_settings_point() -> None:
    policies = of("NetworkPolicy", "overlays/production")
    everything = policies["nothing-else"]["spec"]
    assert everything == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for service in SERVICES:
        called = {other for other in SERVICES if f"{other}_url" in CLASSES[service].model_fields}
        assert _may_call(policies, service) == called
        callers = {other for other in SERVICES if f"{service}_url" in CLASSES[other].model_fields}
        assert _may_be_called_by(policies, service) == callers, f"base/{service}/network.yaml names who calls it"


def test_what_migrates_reaches_its_database_and_nothing_else() -> None:
    policies = [m["spec"] for m in of("NetworkPolicy", "overlays/production").values()]
    for service in SERVICES:
        labels = of("Job", f"base/{service}")[f"{service}-migrate"]["spec"]["template"]["metadata"]["labels"]
        mine = [p for p in policies if (p["podSelector"].get("matchLabels") or {"no": "pod"}).items() <= labels.items()]
        ports = {port["port"] for policy in mine for rule in policy.get("egress", []) for port in rule["ports"]}
        assert ports == {53, 5432}
        assert not any(policy.get("ingress") for policy in mine)
    broker = next(
        p for p in policies if p["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/name") == "rabbitmq"
    )
    peers = [peer["podSelector"]["matchLabels"] for peer in broker["ingress"][0]["from"]]
    assert [peer.get("app.kubernetes.io/component") or peer["app.kubernetes.io/name"] for peer in peers] == [
        "service",
        "topology",
    ]


def test_with_tls_nobody_speaks_to_the_broker_in_the_clear(tmp_path: Path) -> None:
    platform, tls = (os.path.relpath(FOLDER / folder, tmp_path) for folder in ("overlays/production/platform", "tls"))
    asked = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    asked |= {"resources": [platform], "components": [tls]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(asked))
    made = {(m["kind"], m["metadata"]["name"]): m for m in rendered(str(tmp_path))}
    broker = made["RabbitmqCluster", "rabbitmq"]["spec"]
    assert broker["tls"] == {"secretName": "rabbitmq-tls"}
    _is_documented(broker, RABBITMQ_CLUSTER, "spec")
    pod = made["Job", "topology"]["spec"]["template"]["spec"]
    address = next(entry["value"] for entry in pod["containers"][0]["env"] if entry["name"] == "AMQP_URL")
    assert address == "amqps://$(BROKER_USER):$(BROKER_PASSWORD)@rabbitmq:5671/"
    authority = Path(made["ConfigMap", "malote"]["data"]["MALOTE_TLS_CA_FILE"])
    assert authority.name == "ca.crt"
    for spec in (pod, pods("base/orders")["orders"]):
        sources = next(volume for volume in spec["volumes"] if volume["name"] == "secrets")["projected"]["sources"]
        assert {"secret": {"name": "malote", "optional": True}} in sources
        mounts = spec["containers"][0]["volumeMounts"]
        assert str(authority.parent) in [mount["mountPath"] for mount in mounts if mount["name"] == "secrets"]
    policy = made["NetworkPolicy", "rabbitmq"]["spec"]["ingress"]
    opened = {port["port"] for rule in policy for port in rule["ports"]}
    assert not opened & {5672, 15672}
    assert {5671, 15671} <= opened


def test_the_manual_lets_customers_reach_all_that_is_for_them_and_nothing_of_the_operators() -> None:
    [said] = re.findall(r"The proxy forwards\s(.*?)\sto the Service", (ROOT / "docs/running.md").read_text(), re.DOTALL)
    passed = set(re.findall(r"`(\S+?)`", said))
    documents = {"/" + route.path.split("/")[1] for route in pages.router.routes if isinstance(route, APIRoute)}
    assert documents
    assert passed == {"/v1", "/openapi.json", *documents}


def test_whatever_may_only_go_where_it_is_let_may_ask_for_names() -> None:
    found = [m["spec"] for m in of("NetworkPolicy", "overlays/production").values() if m["spec"].get("egress")]
    asking = {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}
    named = {policy["podSelector"]["matchLabels"].get("app.kubernetes.io/name") for policy in found
             if asking in policy["egress"]}  # fmt: skip
    assert named == {*SERVICES, "rabbitmq", "topology"}, f"see network.yaml in deploy/k8s/base/<service>; {LISTED}"


def _is_about(policy: Manifest, service: str) -> bool:
    selected = policy["spec"]["podSelector"].get("matchLabels", {})
    return bool(selected.get("app.kubernetes.io/name") == service)


def _may_be_called_by(policies: dict[str, Manifest], service: str) -> set[str]:
    """By its own policies' word, other than by what scrapes and by what ends TLS."""
    found: set[str] = set()
    for policy in policies.values():
        if _is_about(policy, service):
            for peer in [peer for rule in policy["spec"].get("ingress", []) for peer in rule["from"]]:
                if "podSelector" in peer:
                    [expression] = peer["podSelector"]["matchExpressions"]
                    found |= set(expression["values"])
    return found


def _may_call(policies: dict[str, Manifest], service: str) -> set[str]:
    found: set[str] = set()
    for policy in policies.values():
        if _is_about(policy, service):
            for rule in policy["spec"].get("egress", []):
                if {"port": 8000} in rule["ports"]:
                    for peer in rule["to"]:
                        found |= set(peer["podSelector"]["matchExpressions"][0]["values"])
    return found
