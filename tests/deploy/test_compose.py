"""docker-compose.yml: valid, complete, in order, and nothing in it can do more than it has to."""

import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from contracts.flow import SERVICES, SHOP
from deploy.local import install
from shared.messaging.decode import MESSAGE_LIMIT
from tests.contract.test_settings import CLASSES, DOCUMENTED
from tests.deploy.dockerfile import DOCKERFILE, stages
from tests.postgres import PostgresCluster

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
INTERPOLATED = re.compile(r"\$\{(\w+)(:-([^}]*))?\}")


def defaults(text: str) -> str:
    """The text as Compose reads it where nothing is set."""
    return INTERPOLATED.sub(lambda found: found[3] or "", text)


COMPOSE: dict[str, Any] = yaml.safe_load(defaults(FILE.read_text()))
OURS = {name: COMPOSE["services"][name] for name in CLASSES if name in COMPOSE["services"]}
ONCE = ("databases", "migrate", "topology", "tools")
WATCH = "watch"
ALL: dict[str, dict[str, Any]] = COMPOSE["services"]


def test_it_is_valid_by_the_compose_specifications_own_schema() -> None:
    tool = ROOT / ".venv/bin/check-jsonschema"
    checked = subprocess.run(
        [tool, "--builtin-schema", "vendor.compose-spec", FILE], capture_output=True, text=True, timeout=60
    )
    assert checked.returncode == 0, checked.stdout


def test_it_needs_nothing_to_be_set() -> None:
    assert [found[1] for found in INTERPOLATED.finditer(FILE.read_text()) if found[2] is None] == []


def test_every_service_is_in_it_under_its_name() -> None:
    for name in sorted(CLASSES):
        assert name in OURS, f"{name} is not in docker-compose.yml: run `make deploy`"
    assert set(OURS) == set(CLASSES) == set(SERVICES)
    for name, service in OURS.items():
        assert service["build"] == {
            "context": ".", "dockerfile": "deploy/Dockerfile", "args": {"SERVICE": name}
        }  # fmt: skip
        assert service["image"].startswith(f"malote/{name}:")


def test_each_image_is_built_by_one_service_anew_at_every_start_and_never_taken_from_a_registry() -> None:
    built = [service["image"] for service in ALL.values() if "build" in service]
    assert len(set(built)) == len(built), "two builds at once can't write one image"
    ours = [service for service in ALL.values() if service["image"].startswith("malote/")]
    assert {service["image"] for service in ours} == set(built)
    for service in ours:
        assert service["pull_policy"] == ("build" if "build" in service else "never")


def test_what_can_be_set_is_in_the_example_of_all_settings_with_its_default() -> None:
    for name, _, default in INTERPOLATED.findall(FILE.read_text()):
        assert name in DOCUMENTED
        if name != "MALOTE_JWT_SECRET":  # elsewhere it has none
            assert DOCUMENTED[name] == default, name


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_service_is_told_only_what_it_has_a_setting_for(name: str) -> None:
    fields = {field.upper() for field in CLASSES[name].model_fields}
    everybodys = {field.upper() for settings in CLASSES.values() for field in settings.model_fields}
    for variable in OURS[name]["environment"]:
        prefix, _, field = variable.partition("_")
        assert prefix in ("MALOTE", name.upper())
        assert field in (everybodys if prefix == "MALOTE" else fields), variable


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_service_reaches_its_own_database_as_its_own_user_and_the_others_by_their_names(name: str) -> None:
    told = OURS[name]["environment"]
    broker, database = urlsplit(told[f"{name.upper()}_AMQP_URL"]), urlsplit(told[f"{name.upper()}_DATABASE_URL"])
    assert (broker.hostname, broker.username) == ("rabbitmq", name)
    assert (database.hostname, database.username, database.path) == ("postgres", name, f"/{name}")
    for other in set(CLASSES) - {name}:
        if f"{other}_url" in CLASSES[name].model_fields:
            assert told[f"{name.upper()}_{other.upper()}_URL"] == f"http://{other}:8000"


def test_databases_users_and_tables_are_made_for_every_service() -> None:
    missing = set(SERVICES) - set(ALL["databases"]["command"])
    assert not missing, f"{missing} have no database: run `make deploy`"
    assert sorted(ALL["databases"]["command"]) == sorted(SERVICES)
    assert set(ALL["migrate"]["environment"]) == {f"{name.upper()}_DATABASE_URL" for name in SERVICES}
    told = ALL["topology"]["environment"]
    assert set(told) == {"AMQP_URL", *(f"{name.upper()}_AMQP_URL" for name in (*SERVICES, SHOP))}
    for name, service in OURS.items():
        assert service["environment"].items() & told.items() == {
            (f"{name.upper()}_AMQP_URL", told[f"{name.upper()}_AMQP_URL"])
        }


def test_everything_starts_after_what_it_needs() -> None:
    done, healthy = {"condition": "service_completed_successfully"}, {"condition": "service_healthy"}
    for service in OURS.values():
        assert service["depends_on"]["migrate"] == service["depends_on"]["topology"] == done
    assert ALL["migrate"]["depends_on"] == {"databases": done}
    assert ALL["databases"]["depends_on"] == {"postgres": healthy}
    assert ALL["topology"]["depends_on"] == {"rabbitmq": healthy}
    assert OURS["email"]["depends_on"]["mailpit"] == healthy
    needed = {other for service in ALL.values() for other, how in service.get("depends_on", {}).items() if how == done}
    assert needed == {"databases", "migrate", "topology"}, "--wait takes one that nobody waits for as a failure"


def test_whatever_runs_is_asked_how_it_is_and_ours_whether_they_are_ready() -> None:
    assert {name for name, service in ALL.items() if "healthcheck" not in service} == {*ONCE, WATCH}
    for service in OURS.values():
        assert service["healthcheck"]["test"][-2:] == ["shared.http.health", "/readyz"]


def test_the_watch_looks_at_every_service_and_mails_as_the_email_service_does() -> None:
    told, mails = ALL[WATCH]["environment"], OURS["email"]["environment"]
    assert told["MALOTE_SERVICE_URL"].replace("SERVICE", "orders") == "http://orders:8000"
    own = {name: value for name, value in told.items() if name.startswith("EMAIL_")}
    assert own == {name: mails[name] for name in ("EMAIL_SMTP_HOST", "EMAIL_SMTP_PORT", "EMAIL_OPERATORS")}
    assert ALL[WATCH]["command"] == ["watch"]


def test_the_port_of_health_is_the_images_own_and_not_published() -> None:
    said = " ".join(step.text for step in stages(DOCKERFILE.read_text())[1]["runtime"][1] if step.word == "ENV")
    assert "MALOTE_HEALTH_PORT=9000" in said.split()
    for name, service in ALL.items():
        assert not [variable for variable in service.get("environment", {}) if "HEALTH_PORT" in variable], name
    for service in OURS.values():
        assert not any(port.endswith(":9000") for port in service.get("ports", []))


def test_everything_has_limits_and_its_log_an_end() -> None:
    for name, service in ALL.items():
        assert {"cpus", "mem_limit", "logging", "restart"} <= set(service), name
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_our_containers_can_write_only_to_scratch_and_volumes_and_have_no_powers() -> None:
    for name in (*OURS, *ONCE, WATCH):
        service = ALL[name]
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"]
        assert not service.get("privileged")
        writable = [*service.get("tmpfs", []), *(volume for volume in service.get("volumes", []))]
        assert any("/tmp" in place for place in writable), name


def test_the_broker_and_who_asks_how_it_is_are_one_user_without_powers() -> None:
    assert ALL["rabbitmq"]["user"] == "rabbitmq"
    assert ALL["rabbitmq"]["cap_drop"] == ["ALL"]


def test_a_stopping_service_has_longer_than_its_grace() -> None:
    for name, service in OURS.items():
        grace = CLASSES[name].model_fields["grace_seconds"].default
        assert int(service["stop_grace_period"].removesuffix("s")) > grace + 3


def test_only_this_machine_can_reach_it() -> None:
    ports = [port for service in ALL.values() for port in service.get("ports", [])]
    assert "127.0.0.1:8000:8000" in ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    written = re.findall(r"127\.0\.0\.1:(\S+?):\d+\b", FILE.read_text())
    assert [port for port in written if not port.startswith("${")] == [], "another program may have that port"


def test_other_peoples_images_are_of_one_version() -> None:
    others = {service["image"] for service in ALL.values() if not service["image"].startswith("malote/")}
    assert all(re.search(r":v?\d+\.\d+(\.\d+)?", image) for image in others)


def test_every_file_that_is_mounted_is_there() -> None:
    mounted = [volume for service in ALL.values() for volume in service.get("volumes", []) if volume.startswith("./")]
    assert mounted
    assert [volume for volume in mounted if not (ROOT / volume.split(":")[0]).exists()] == []


def test_databases_are_made_once_each_and_closed_to_the_other_services(postgres: PostgresCluster) -> None:
    admin = urlsplit(postgres.create_database("compose_admin"))
    told = {
        "PGHOST": str(admin.hostname),
        "PGPORT": str(admin.port),
        "PGUSER": str(admin.username),
        "PGPASSWORD": "it's",
    }
    environment = {**told, "PATH": f"{install.postgres()}:/usr/bin:/bin"}
    script = ["bash", str(ROOT / "deploy/compose/databases.sh"), "compose_a", "compose_b"]
    try:
        for _ in range(2):
            subprocess.run(script, env=environment, check=True, capture_output=True, timeout=60)
        assert _may_connect(environment, "compose_a", "compose_a")
        assert not _may_connect(environment, "compose_a", "compose_b")
    finally:
        for name in ("compose_a", "compose_b", "compose_admin"):
            postgres.drop_database(name)


def _may_connect(environment: dict[str, str], user: str, database: str) -> bool:
    asked = f"SELECT has_database_privilege('{user}', '{database}', 'CONNECT')"
    command = ["psql", "--no-psqlrc", "--tuples-only", "--no-align", "--dbname", "postgres", "--command", asked]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip() == "t"


def test_a_broker_takes_no_larger_messages_than_a_consumer_reads() -> None:
    files = ("deploy/rabbitmq/limits.conf", "deploy/k8s/base/platform/broker.yaml", "deploy/local/rabbitmq.py")
    for file in files:
        assert f"max_message_size = {MESSAGE_LIMIT}\n" in (ROOT / file).read_text(), file
