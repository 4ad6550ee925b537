"""What each process is told: ports, addresses, passwords; from the environment, `.env`, or by default."""

import json
import os
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme

from contracts.flow import MONITOR, SERVICES, SHOP
from deploy.local import environment
from deploy.local.environment import Damaged, Environment, Misconfigured
from deploy.local.ports import HOST, free_port
from shared.config.settings import ServiceSettings
from shared.config.tls import Tls

NOT_OURS = ("MALOTE_", "AMQP_", "EMAIL_", *(f"{service.upper()}_" for service in SERVICES))


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout's root without any setting; its services are the real ones."""
    for name in [name for name in os.environ if name.startswith(NOT_OURS)]:
        monkeypatch.delenv(name)
    (tmp_path / "services").symlink_to(environment.ROOT / "services")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    return tmp_path


def dotenv(root: Path, *lines: str) -> None:
    (root / ".env").write_text("\n".join(lines))


def test_every_folder_that_can_be_started_is_a_service() -> None:
    assert Environment().services == sorted(SERVICES)


def test_without_settings_ports_are_those_of_the_documents_and_no_two_services_share_one() -> None:
    claimed = Environment().claimed_ports()
    assert claimed.items() >= {
        "GATEWAY_PORT": 8000, "ORDERS_PORT": 8001, "STOCK_PORT": 8002, "EMAIL_PORT": 8003, "REPORTS_PORT": 8004,
        "DEADLETTERS_PORT": 8005,
        "MALOTE_SMTP_PORT": 2580, "MALOTE_AMQP_PORT": 5680, "MALOTE_MANAGEMENT_PORT": 15680,
        "MALOTE_METRICS_PORT": 15700, "MALOTE_DIST_PORT": 25680,
    }.items()  # fmt: skip
    assert len({*claimed.values()}) == len(claimed)


def test_the_environment_wins_over_dotenv_and_dotenv_over_defaults(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dotenv(root, "ORDERS_PORT=9001", "STOCK_PORT=9002", "MALOTE_DATA=elsewhere", "EMAIL_PORT=")
    monkeypatch.setenv("STOCK_PORT", "9102")
    monkeypatch.setenv("GATEWAY_PORT", "")
    here = Environment()
    assert [here.port_of(name) for name in ("gateway", "orders", "stock", "email")] == [8000, 9001, 9102, 8003]
    assert here.data == root / "elsewhere"
    assert here.environment_of("gateway")["GATEWAY_ORDERS_URL"] == "http://127.0.0.1:9001"


def test_files_of_secrets_win_over_dotenv_and_the_environment_over_both(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "secrets").mkdir()
    for name in ("amqp_url", "ORDERS_PORT", "malote_token"):
        (root / "secrets" / name).write_text({"ORDERS_PORT": "9003"}.get(name, f"amqp://{name}/") + "\n")
    dotenv(root, f"MALOTE_SECRETS_DIR={root}/secrets", "AMQP_URL=amqp://dotenv/", "STOCK_PORT=9002")
    monkeypatch.setenv("ORDERS_PORT", "9001")
    here = Environment()
    assert (here.amqp_url, here.variables["MALOTE_TOKEN"]) == ("amqp://amqp_url/", "amqp://malote_token/")
    assert [here.port_of(name) for name in ("orders", "stock")] == [9001, 9002]
    monkeypatch.setenv("MALOTE_SECRETS_DIR", "/no/such")
    with pytest.raises(Misconfigured, match="MALOTE_SECRETS_DIR=/no/such is no folder"):
        Environment()


def test_a_service_has_its_own_certificates_or_those_for_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner in ("malote", "stock"):
        trustme.CA().cert_pem.write_to_path(str(root / f"{owner}.pem"))
        monkeypatch.setenv(f"{owner.upper()}_TLS_CA_FILE", str(root / f"{owner}.pem"))
    here = Environment()
    assert here.tls_of("stock").ca_file == root / "stock.pem"
    assert here.tls_of("orders") == here.tls_of() == Tls(root / "malote.pem")
    monkeypatch.setenv("MALOTE_TLS_CA_FILE", "/none.pem")
    with pytest.raises(Misconfigured, match=r"^MALOTE_TLS_CA_FILE.* can be read from /none\.pem"):
        Environment().tls_of()


def test_reports_are_kept_in_the_data_folder_and_linked_to_at_the_gateway(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_PORT", "9000")
    told = Environment().environment_of("reports")
    assert told["REPORTS_STORAGE_URL"] == str(root / ".data/reports")
    assert told["MALOTE_PUBLIC_URL"] == "http://127.0.0.1:9000"
    monkeypatch.setenv("MALOTE_PUBLIC_URL", "https://shop.example")
    assert Environment().environment_of("reports")["MALOTE_PUBLIC_URL"] == "https://shop.example"


@pytest.mark.parametrize("value", ["0", "65536", "-1", "80x", "http"])
def test_a_port_that_is_none_is_refused_by_its_variables_name(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ORDERS_PORT", value)
    with pytest.raises(Misconfigured, match=f"^ORDERS_PORT='{value}' is not a port"):
        Environment().claimed_ports()


@pytest.mark.parametrize("url", ["amqp://a:hunter2@one:1,two:2/", "amqp://one/,two/", "http://one/", "amqp://:5/"])
def test_a_brokers_address_that_cannot_be_used_is_named_and_not_shown(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMQP_URL", url)
    for look in (lambda: Environment().amqp_url, lambda: Environment().management_url):
        with pytest.raises(Misconfigured, match=r"^AMQP_URL: ") as refused:
            look()
        assert "hunter2" not in str(refused.value)


def test_a_port_given_twice_names_both_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("ORDERS_PORT", str(port))
    monkeypatch.setenv("STOCK_PORT", str(port))
    assert f"port {port} is given twice; change ORDERS_PORT or STOCK_PORT" in Environment().taken_ports()


@pytest.mark.parametrize("variable", ["MALOTE_HEALTH_PORT", "ORDERS_HEALTH_PORT"])
def test_a_health_port_is_refused_where_the_processes_of_one_machine_would_share_it(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "9000")
    assert f"{variable} is for containers: here a service has one port; unset it" in Environment().taken_ports()


def test_a_taken_port_names_its_holder_and_the_variable_that_moves_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Environment().claimed_ports():
        monkeypatch.setenv(name, str(free_port()))
    assert Environment().taken_ports() == []
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("ORDERS_PORT", str(port))
        (said,) = Environment().taken_ports()
        assert said.startswith(f"port {port} is taken by ")
        assert said.endswith(f"(pid {os.getpid()}); ORDERS_PORT={port + 100} moves ours")
        assert Environment().taken_ports(ours={os.getpid()}) == []


def test_passwords_are_made_once_kept_and_readable_by_their_owner_only() -> None:
    here = Environment()
    passwords, secret, admin = here.passwords, here.jwt_secret, here.amqp_url
    assert {*passwords} == {*SERVICES, SHOP}
    assert len({*passwords.values(), secret, urlsplit(admin).password}) == len(passwords) + 2
    assert all(len(password) >= 32 for password in (*passwords.values(), secret))
    kept = here.data / "secrets.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    again = Environment()
    assert (again.passwords, again.jwt_secret, again.amqp_url) == (passwords, secret, admin)


def test_a_users_password_is_the_one_of_its_address_and_the_monitors_is_said_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ORDERS_AMQP_URL", "amqp://orders:a%2Fb@broker:5672/")
    monkeypatch.setenv("STOCK_AMQP_URL", "amqp://somebody:else@broker:5672/")
    monkeypatch.setenv("AMQP_MONITOR_PASSWORD", "watching")
    passwords = Environment().passwords
    assert (passwords["orders"], passwords[MONITOR]) == ("a/b", "watching")
    assert len(passwords["stock"]) >= 32


def test_passwords_that_are_first_asked_for_at_once_are_all_kept() -> None:
    names = [f"user-{number}" for number in range(40)]
    with ThreadPoolExecutor(8) as threads:
        made = dict(zip(names, threads.map(lambda name: Environment()._secret(name), names), strict=True))
    assert json.loads((Environment().data / "secrets.json").read_text()) == made


def test_each_service_is_told_to_connect_as_its_own_user() -> None:
    here = Environment()
    for service in SERVICES:
        url = urlsplit(here.environment_of(service)[f"{service.upper()}_AMQP_URL"])
        assert (url.username, url.password, url.port) == (service, here.passwords[service], 5680)


def test_no_service_is_told_another_ones_password_or_the_administrators() -> None:
    here = Environment()
    told = " ".join(value for name, value in here.environment_of("stock").items() if name not in os.environ)
    for user in {*SERVICES, SHOP} - {"stock"}:
        assert here.passwords[user] not in told
    assert str(urlsplit(here.amqp_url).password) not in told


def test_what_is_set_for_a_service_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {
        "ORDERS_DATABASE_URL": "postgresql://orders@db/orders",
        "ORDERS_AMQP_URL": "amqp://orders:own@elsewhere/",
        "MALOTE_JWT_SECRET": "a secret of one's own, long enough",
    }
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    here = Environment()
    assert own.items() <= here.environment_of("orders").items()
    assert here.jwt_secret == own["MALOTE_JWT_SECRET"]
    assert here.database_url_of("orders") == own["ORDERS_DATABASE_URL"]
    assert here.database_url_of("stock") == f"sqlite:///{here.data / 'stock.db'}"


def test_a_services_own_variable_wins_over_the_one_for_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dotenv(root, "MALOTE_LOG_LEVEL=DEBUG", "STOCK_LOG_LEVEL=ERROR")
    told = Environment().environment_of("stock")
    for name, value in told.items():
        monkeypatch.setenv(name, value)

    class Stock(ServiceSettings):
        model_config = ServiceSettings.model_config | {"env_prefix": "STOCK_", "env_file": None}

    class Orders(ServiceSettings):
        model_config = ServiceSettings.model_config | {"env_prefix": "ORDERS_", "env_file": None}

    assert (Stock().log_level, Orders().log_level) == ("ERROR", "DEBUG")


def test_mail_goes_to_the_local_mailbox_unless_a_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Environment().environment_of("email")
    assert (told["EMAIL_SMTP_HOST"], told["EMAIL_SMTP_PORT"]) == (HOST, "2580")
    monkeypatch.setenv("EMAIL_SMTP_HOST", "smtp.example.com")
    told = Environment().environment_of("email")
    assert told["EMAIL_SMTP_HOST"] == "smtp.example.com"
    assert not {"EMAIL_SMTP_PORT", "EMAIL_OPERATORS"} & {*told}


@pytest.mark.parametrize(
    ("given", "management"),
    [
        ("amqp://admin:pw@broker.example:5673/", "http://admin:pw@broker.example:15672"),
        ("amqp://broker.example", "http://guest:guest@broker.example:15672"),
        ("amqps://admin:pw@broker.example/", "https://admin:pw@broker.example:15671"),
    ],
)
def test_another_broker_takes_the_place_of_our_own(
    monkeypatch: pytest.MonkeyPatch, given: str, management: str
) -> None:
    monkeypatch.setenv("AMQP_URL", given)
    here = Environment()
    assert here.broker() is None
    assert here.management_url == management
    assert urlsplit(here.amqp_url_of("stock")).hostname == "broker.example"
    assert urlsplit(here.amqp_url_of("stock")).username == "stock"
    assert not {"MALOTE_AMQP_PORT", "MALOTE_MANAGEMENT_PORT", "MALOTE_DIST_PORT"} & {*here.claimed_ports()}
    monkeypatch.setenv("AMQP_MANAGEMENT_URL", "https://other.example")
    assert Environment().management_url == "https://other.example"


def test_of_a_cluster_all_nodes_are_told_and_the_management_of_one_that_answers_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AMQP_URL", "amqp://admin:pw@one/shop, amqp://admin:pw@two:5673/shop")
    told = Environment().amqp_url_of("stock").split(",")
    assert [(url.hostname, url.port, url.path, url.username) for url in map(urlsplit, told)] == [
        ("one", None, "/shop", "stock"),
        ("two", 5673, "/shop", "stock"),
    ]
    monkeypatch.setattr("deploy.local.ports.accepts", lambda port, host: (port, host) == (15672, "two"))
    assert Environment().management_url == "http://admin:pw@two:15672"
    monkeypatch.setattr("deploy.local.ports.accepts", lambda *_: False)
    assert Environment().management_url == "http://admin:pw@one:15672"


def test_the_retry_ladder_is_the_services_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Environment().retry_ladder == ServiceSettings.model_fields["retry_ladder"].default
    monkeypatch.setenv("MALOTE_RETRY_LADDER", "1s, 2m")
    assert Environment().retry_ladder == ("1s", "2m")


def test_a_retry_ladder_that_is_none_is_refused_by_its_variables_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALOTE_RETRY_LADDER", "1s,soon")
    with pytest.raises(Misconfigured, match=r"^MALOTE_RETRY_LADDER: 'soon' is not a duration"):
        _ = Environment().retry_ladder
    monkeypatch.setenv("MALOTE_RETRY_LADDER", "1s,0s")
    with pytest.raises(Misconfigured, match=r"^MALOTE_RETRY_LADDER: '0s' is no wait at all"):
        _ = Environment().retry_ladder


def test_no_state_file_is_no_fleet_and_one_that_is_damaged_is_named_with_what_to_do() -> None:
    here = Environment()
    assert here.state() == {}
    here.run.mkdir(parents=True)
    here.state_file.write_text('{"services": [')
    with pytest.raises(Damaged, match=f"^{here.state_file}: it is no JSON .*`malote down`, then `malote up`"):
        here.state()
