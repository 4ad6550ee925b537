"""Where things are on this machine, and what each process is told: paths, ports, passwords, addresses."""

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from dotenv import dotenv_values

from contracts.flow import MONITOR, SERVICES, SHOP
from deploy.local import ports
from deploy.local.advice import advice
from deploy.local.files import alone, write_private
from deploy.local.ports import HOST
from deploy.local.rabbitmq import ADMINISTRATOR, RabbitNode
from shared.config import secret_files
from shared.config.services import services
from shared.config.settings import ServiceSettings, default_port, read_ladder
from shared.config.tls import Tls
from shared.config.urls import brokers

ROOT = Path(__file__).resolve().parents[2]
OTHERS = stat.S_IRWXG | stat.S_IRWXO
_BROKER_PORTS = {
    "MALOTE_AMQP_PORT": 5680,
    "MALOTE_MANAGEMENT_PORT": 15680,
    "MALOTE_METRICS_PORT": 15700,
    "MALOTE_DIST_PORT": 25680,
}


class Misconfigured(Exception):
    """Something in the environment is wrong; the text names the variable."""


class Unusable(Misconfigured):
    """The data folder, or something in it, cannot be used. `detail` is its path and the reason, `kind` its advice."""

    kind = "data_folder"

    def __init__(self, data: Path, error: OSError) -> None:
        self.detail = f"{error.filename or data}: {error.strerror or error}"
        todo = f"give {data} and all that is in it to this user (chown -R), or set MALOTE_DATA to another folder"
        super().__init__(f"{self.detail}; {todo}")


class Damaged(Unusable):
    """A file of ours in the data folder is not what we wrote, as after a disk that was full or lost power."""

    def __init__(self, path: Path, why: str) -> None:
        self.detail, self.kind = f"{path}: {why}", f"damaged_{path.stem}"
        Misconfigured.__init__(self, f"{self.detail}. {advice(self.kind, path.name).next}")


class Environment:
    """This process's variables, then files of secrets, then `.env`, and what follows and is kept in `.data`."""

    def __init__(self) -> None:
        written, own = _set(_written(ROOT / ".env")), _set(os.environ)
        self.variables = written | self._secrets(written | own) | own
        self.data = (ROOT / self.variables.get("MALOTE_DATA", ".data")).resolve()
        self.logs = self.data / "logs"
        self.run = self.data / "run"
        self.state_file = self.run / "state.json"
        self.replicas_file = self.run / "replicas.json"
        self.mailbox = self.data / "mail"

    def make_folders(self) -> None:
        """The data folder, which holds what customers said: its owner's alone, whatever it was before.

        Raises `Unusable` where it cannot be that, as after a restore by another user."""
        os.umask(0o077)  # for all that this process and its children make
        with self.using_data():
            self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in (self.data, *self.data.glob("*.db*")):
                with contextlib.suppress(FileNotFoundError):  # a journal, which its database removes
                    if (mode := stat.S_IMODE(path.stat().st_mode)) & OTHERS:
                        path.chmod(mode & ~OTHERS)
            self.logs.mkdir(exist_ok=True)

    @contextlib.contextmanager
    def using_data(self) -> Iterator[None]:
        """Work on files of the data folder: what the system has against it is raised as `Unusable`."""
        try:
            yield
        except OSError as error:
            raise Unusable(self.data, error) from error

    @cached_property
    def smtp_port(self) -> int:
        """Where the mail sink listens."""
        return self._port("MALOTE_SMTP_PORT", 2580)

    @cached_property
    def retry_ladder(self) -> tuple[str, ...]:
        """The waits that the broker gets a queue for."""
        return self._ladder()

    @property
    def services(self) -> list[str]:
        """Every folder of services/ that can be started; nobody keeps a list."""
        return services()

    def port_of(self, service: str) -> int:
        """`<SERVICE>_PORT`, else what its `service.toml` says."""
        return self._port(f"{service.upper()}_PORT", default_port(service))

    def url_of(self, service: str) -> str:
        """Where a service answers HTTP."""
        return f"http://{HOST}:{self.port_of(service)}"

    @property
    def is_elsewhere(self) -> bool:
        """Whether the services run in containers, not as processes that this machine's supervisor started."""
        return "MALOTE_SERVICE_URL" in self.variables

    def address_of(self, service: str) -> str:
        """Where a service that runs is asked: by MALOTE_SERVICE_URL in containers, else where it was started."""
        if self.is_elsewhere:
            return self.variables["MALOTE_SERVICE_URL"].replace("SERVICE", service).rstrip("/")
        running = {entry["name"]: entry["port"] for entry in self.state().get("services", [])}
        return f"http://{HOST}:{running[service]}" if service in running else self.url_of(service)

    def health_of(self, service: str) -> str:
        """Where a service that runs says how it is: in containers at MALOTE_HEALTH_PORT, if that is set."""
        address = self.address_of(service)
        if not (self.is_elsewhere and "MALOTE_HEALTH_PORT" in self.variables):
            return address
        url = urlsplit(address)
        return urlunsplit(url._replace(netloc=f"{url.hostname}:{self._port('MALOTE_HEALTH_PORT', 0)}"))

    @property
    def jwt_secret(self) -> str:
        """What tokens are signed with here."""
        return self.variables.get("MALOTE_JWT_SECRET") or self._secret("jwt_secret")

    @property
    def passwords(self) -> dict[str, str]:
        """A password for each broker user but the administrator: what its own address says, else one of ours.

        Who watches depths gets a user only where its password is set."""
        found = {user: self._password(user) for user in {*SERVICES, *self.services, SHOP}}
        monitor = self.variables.get("AMQP_MONITOR_PASSWORD")
        return found | ({MONITOR: monitor} if monitor else {})

    def _password(self, user: str) -> str:
        own = urlsplit(self.variables.get(f"{user.upper()}_AMQP_URL", ""))
        return unquote(own.password) if own.username == user and own.password else self._secret(f"broker.{user}")

    @property
    def has_own_broker(self) -> bool:
        """Whether the broker is the project's own node: AMQP_URL names no other."""
        return "AMQP_URL" not in self.variables

    def broker(self) -> RabbitNode | None:
        """The project's own node; None where AMQP_URL names another broker."""
        return self.node(self._secret(f"broker.{ADMINISTRATOR}")) if self.has_own_broker else None

    def node(self, password: str) -> RabbitNode:
        """The project's own node; without its administrator's password it can be ended, not started."""
        amqp, management, metrics, dist = (self._port(*port) for port in _BROKER_PORTS.items())
        return RabbitNode(self.data / "broker", amqp, management, metrics, dist, password)

    @property
    def amqp_url(self) -> str:
        """The broker as its administrator; of a cluster all nodes, with commas between."""
        if node := self.broker():
            return node.amqp_url
        try:
            brokers(self.variables["AMQP_URL"])
        except ValueError as error:
            raise Misconfigured(f"AMQP_URL: {error}") from error
        return self.variables["AMQP_URL"]

    @property
    def management_url(self) -> str:
        """The management API with the administrator's login; another broker's is AMQP_MANAGEMENT_URL, or that of a
        node which answers."""
        if node := self.broker():
            return node.management_url
        urls = [*map(urlsplit, brokers(self.amqp_url))]
        if given := self.variables.get("AMQP_MANAGEMENT_URL"):
            return given
        scheme, port = ("https", 15671) if urls[0].scheme == "amqps" else ("http", 15672)
        hosts = [f"[{url.hostname}]" if ":" in str(url.hostname) else str(url.hostname) for url in urls]
        answering = (host for host in hosts if ports.accepts(port, host.strip("[]")))
        host = hosts[0] if len(hosts) == 1 else next(answering, hosts[0])
        return f"{scheme}://{urls[0].netloc.rpartition('@')[0] or 'guest:guest'}@{host}:{port}"

    def amqp_url_of(self, user: str) -> str:
        """The broker as a service's own user, or as the shop."""
        login = f"{user}:{quote(self.passwords[user])}"
        urls = map(urlsplit, brokers(self.amqp_url))
        return ",".join(urlunsplit(url._replace(netloc=f"{login}@{url.netloc.rpartition('@')[2]}")) for url in urls)

    def database_url_of(self, service: str) -> str:
        """`<SERVICE>_DATABASE_URL`, else a SQLite file in the data folder."""
        return self.variables.get(f"{service.upper()}_DATABASE_URL") or f"sqlite:///{self.data / f'{service}.db'}"

    def environment_of(self, service: str) -> dict[str, str]:
        """What a service's process is told. Whatever is set already stays as it is.

        MALOTE_DATA is how `fleet.end_orphans` knows a process of ours."""
        own = service.upper()
        told = {
            f"{own}_DATABASE_URL": self.database_url_of(service),
            f"{own}_AMQP_URL": self.amqp_url_of(service),
            f"{own}_PORT": str(self.port_of(service)),
            "MALOTE_JWT_SECRET": self.jwt_secret,
            "PYTHONUNBUFFERED": "1",
        }
        told["REPORTS_STORAGE_URL"] = str(self.data / "reports")
        if "gateway" in self.services:
            told["MALOTE_PUBLIC_URL"] = self.url_of("gateway")
        told |= {f"{own}_{other.upper()}_URL": self.url_of(other) for other in self.services if other != service}
        if not self.variables.get("EMAIL_SMTP_HOST"):
            told |= {"EMAIL_SMTP_HOST": HOST, "EMAIL_SMTP_PORT": str(self.smtp_port)}
            told["EMAIL_OPERATORS"] = "operators@malote.example"  # any address: all mail ends in the local mailbox
        return told | self.variables | {"MALOTE_DATA": str(self.data)}

    def tls_of(self, service: str = "malote") -> Tls:
        """The certificates for a service's connections; without a name, those that are set for all."""
        given = {}
        for what in ("ca", "cert", "key"):
            names = (f"{owner}_TLS_{what}_FILE".upper() for owner in (service, "malote"))
            path = next(filter(None, map(self.variables.get, names)), None)
            given[f"{what}_file"] = Path(path) if path else None
        tls = Tls(**given)
        try:
            _ = tls.context
        except ValueError as error:
            raise Misconfigured(f"MALOTE_TLS_CA_FILE, _CERT_FILE or _KEY_FILE: {error}") from error
        return tls

    def claimed_ports(self) -> dict[str, int]:
        """Every port that the fleet will listen on, by the variable that moves it."""
        claimed = {f"{service.upper()}_PORT": self.port_of(service) for service in self.services}
        claimed["MALOTE_SMTP_PORT"] = self.smtp_port
        if self.has_own_broker:
            claimed |= {variable: self._port(variable, default) for variable, default in _BROKER_PORTS.items()}
        return claimed

    def taken_ports(self, ours: Iterable[int] = ()) -> list[str]:
        """A sentence for each port that we can't have: claimed twice, or listened on by none of `ours` (pids)."""
        claimed = self.claimed_ports()
        # All processes of one machine would take the same one, and who asks them asks at their only port.
        said = [
            f"{variable} is for containers: here a service has one port; unset it"
            for variable in (f"{owner}_HEALTH_PORT".upper() for owner in ("malote", *self.services))
            if variable in self.variables
        ]
        for variable, port in claimed.items():
            twice = [other for other, same in claimed.items() if same == port and other > variable]
            if twice:
                said.append(f"port {port} is given twice; change {variable} or {', '.join(twice)}")
            elif ports.accepts(port) and (holder := ports.holder(port)) not in ours:
                said.append(f"port {port} is taken{ports.describe(holder)}; {variable}={port + 100} moves ours")
        return said

    def state(self) -> dict[str, Any]:
        """What the supervisor wrote down last; empty when there is no fleet. Raises `Unusable`."""
        with self.using_data():
            return kept(self.state_file)

    def _secrets(self, variables: Mapping[str, str]) -> dict[str, str]:
        prefixes = ("MALOTE_", "AMQP_", *(f"{user.upper()}_" for user in (*self.services, SHOP)))
        try:
            return _set(secret_files.read(variables.get(secret_files.VARIABLE), *prefixes))
        except secret_files.Unreadable as error:
            raise Misconfigured(str(error)) from error

    def _port(self, variable: str, default: int) -> int:
        value = self.variables.get(variable, str(default))
        if not (value.isascii() and value.isdecimal()) or not 0 < int(value) < 65536:
            raise Misconfigured(f"{variable}={value!r} is not a port (1 to 65535)")
        return int(value)

    def _ladder(self) -> tuple[str, ...]:
        """The waits that the broker gets a queue for, as ServiceSettings reads them."""
        given = self.variables.get("MALOTE_RETRY_LADDER")
        if given is None:
            default: tuple[str, ...] = ServiceSettings.model_fields["retry_ladder"].default
            return default
        try:
            return read_ladder(tuple(step.strip() for step in given.split(",")))
        except ValueError as error:
            raise Misconfigured(f"MALOTE_RETRY_LADDER: {error}") from error

    def _secret(self, name: str) -> str:
        """Made when first asked for, then kept: tokens and broker users outlive a restart."""
        path = self.data / "secrets.json"
        with self.using_data():
            if name not in (found := kept(path)):
                with alone(self.data / "secrets.lock"):  # `malote token` in one terminal, `make up` in another
                    found = {name: secrets.token_urlsafe(32)} | kept(path)
                    write_private(path, json.dumps(found, indent=1))
        return str(found[name])


def _written(path: Path) -> dict[str, str | None]:
    try:
        return dotenv_values(path)
    except UnicodeDecodeError:
        raise Misconfigured(f"{path} is no text in UTF-8") from None
    except OSError as error:
        raise Misconfigured(f"{path} cannot be read: {error.strerror}") from None


def _set(variables: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if value}


def kept(path: Path) -> dict[str, Any]:
    """What we wrote into a file of ours; empty if there is none. Raises OSError, `Damaged`."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError as error:
        raise Damaged(path, f"it is no JSON ({error})") from None
    if not isinstance(found, dict):
        raise Damaged(path, "it is JSON of another shape")
    return found
