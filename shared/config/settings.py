"""Settings from the environment: `<SERVICE>_<FIELD>` is for one service, `MALOTE_<FIELD>` for all.

A variable of the environment takes precedence over a file in the folder of secrets (`shared.config.secret_files`), and
that over a line of `.env` in the working directory. A service's own variable takes precedence over `MALOTE_`.
"""

import sys
import tomllib
from functools import cached_property
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, HttpUrl, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from contracts.flow import LANES
from shared.config import secret_files
from shared.config.tls import Tls
from shared.config.urls import brokers, database_address, demand_port, is_loopback

SERVICES = Path(__file__).resolve().parents[2] / "services"
"""A folder for each service."""
COMMON_PREFIX = "MALOTE_"
OUTSIDE = "outside"
"""The name for all lanes with work outside the database."""
LEAST_DISTINCT = 8
LONGEST_WAIT_SECONDS = 30 * 86_400.0
"""The broker limits the wait of a message to 49 days."""
Host = Annotated[str, Field(pattern=r"^\S+$")]
"""A name or an address to listen on or to connect to."""
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(duration: str) -> float:
    """`"30s"` -> 30.0. Units: ms, s, m, h. Raises ValueError."""
    for unit, factor in UNITS.items():
        if duration.endswith(unit) and duration[: -len(unit)].isascii() and duration[: -len(unit)].isdecimal():
            return int(duration[: -len(unit)]) * factor
    raise ValueError(f"{duration!r} is not a duration: write a whole number and a unit, such as 500ms, 5s or 2m")


LONGEST_LIMIT = "25m"
"""RabbitMQ delivers a message again that is not acknowledged within half an hour."""


def read_limits(entries: tuple[str, ...]) -> dict[str, float]:
    """`("1m", "outside=15m", "reports.export=20m")` -> seconds by lane; `""` is every other lane. Raises ValueError."""
    found: dict[str, float] = {}
    for entry in entries:
        lane, _, limit = entry.rpartition("=")
        if not 0 < seconds(limit.strip()) <= seconds(LONGEST_LIMIT):
            raise ValueError(f"{entry!r}: a limit is more than nothing and at most {LONGEST_LIMIT}")
        if lane and lane.strip() not in (OUTSIDE, *LANES):
            raise ValueError(f"{entry!r}: there is no such lane; there are {', '.join(LANES)}")
        found[lane.strip()] = seconds(limit.strip())
    return found


def read_ladder(steps: tuple[str, ...]) -> tuple[str, ...]:
    """The steps of a retry ladder, if each is a wait. Raises ValueError."""
    for step in steps:
        if seconds(step) <= 0:
            raise ValueError(f"{step!r} is no wait at all")
        if seconds(step) > LONGEST_WAIT_SECONDS:
            raise ValueError(f"{step!r} is longer than 30 days")
    return steps


def default_port(service: str) -> int:
    """The port in the service's `service.toml`, so that all services fit on one machine; 8000 without one."""
    path = SERVICES / service / "service.toml"
    return int(tomllib.loads(path.read_text()).get("port", 8000)) if path.exists() else 8000


class ServiceSettings(BaseSettings):
    """The settings of every service. A service adds its own fields and sets `env_prefix`."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", env_ignore_empty=True, allow_inf_nan=False)
    name: ClassVar[str]

    host: Host = Field(default="127.0.0.1", description="The address that HTTP listens on.")
    port: int = Field(default=8000, ge=0, le=65535, description="The port that HTTP listens on; 0 takes a free one.")
    health_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="A port for /metrics and detailed /readyz, which PORT then does not have. Empty: PORT has all.",
    )
    connections: int = Field(
        default=4_000,
        ge=10,
        le=1_000_000,
        description="The most HTTP connections of a process; further ones get a 503.",
    )
    proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Addresses or networks of trusted proxies, whose X-Forwarded-For and -Proto are used.",
    )
    database_url: SecretStr = Field(
        default=SecretStr(""), description="sqlite:///PATH or postgresql://…; empty: .data/<service>.db"
    )
    amqp_url: SecretStr = Field(
        default=SecretStr("amqp://guest:guest@127.0.0.1:5672/"),
        description="The broker, with this service's own user; of a cluster all nodes, separated by commas.",
    )
    tls_ca_file: Path | None = Field(
        default=None, description="Certificates (PEM) of authorities to trust besides the machine's own."
    )
    tls_cert_file: Path | None = Field(
        default=None, description="The certificate (PEM) of this process, for a broker or a database that asks for one."
    )
    tls_key_file: Path | None = Field(
        default=None, validate_default=True, description="The key of TLS_CERT_FILE (PEM), without a passphrase."
    )
    jwt_secret: SecretStr | None = Field(
        default=None, min_length=32, description="Verifies HS256 tokens (one machine). At least 32 characters."
    )
    jwt_jwks_url: HttpUrl | None = Field(
        default=None, description="Verifies tokens against an issuer's keys (production)."
    )
    jwt_issuer: str | None = Field(
        default=None, validate_default=True, description="With JWT_JWKS_URL: the issuer that tokens must name."
    )
    jwt_audience: str | None = Field(
        default=None, validate_default=True, description="With JWT_JWKS_URL: the audience that tokens must name."
    )
    jwt_max_days: float = Field(
        default=366.0,
        gt=0,
        le=3660,
        description="The longest life of a token, from its issue to its end.",
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto: readable on a terminal, JSON elsewhere."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_identities: Literal["plain", "hashed"] = Field(
        default="plain",
        description="How the log names the subject and the address of a refused caller (401, 403, 404).",
    )
    otlp_endpoint: HttpUrl | None = Field(
        default=None, description="A collector for traces (OTLP over HTTP), without /v1/traces; empty: no traces."
    )
    trace_ratio: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="The share of new traces that is recorded. A trace from elsewhere keeps its decision.",
    )
    retry_ladder: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("1s", "5s", "30s", "2m", "10m"),
        min_length=1,
        description="Waits before each further attempt; the same for all services and for `malote topology apply`.",
    )
    inbox_keep_days: int = Field(
        default=14, ge=1, le=3650, description="How long the id of a processed message is kept."
    )
    outbox_limit: int = Field(
        default=500_000,
        ge=1,
        description="The most messages that wait for the broker; beyond it, HTTP answers with a 503.",
    )
    batch_limit: int = Field(default=200, ge=1, le=5000, description="The most messages in one transaction.")
    handler_limit: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("1m", "outside=15m"),
        description="How long a handler may take before its attempt fails; outside=… where it works outside the "
        "database, LANE=… in one lane.",
    )
    grace_seconds: float = Field(
        default=15.0, gt=0, le=3600, description="How long a stopping service may finish its work."
    )

    @field_validator("health_port")
    @classmethod
    def _is_a_port_of_its_own(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value == info.data.get("port"):
            raise ValueError("PORT is the same: choose another, or leave it empty")
        return value

    @field_validator("database_url")
    @classmethod
    def _is_a_database(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value():
            demand_port(database_address(value.get_secret_value())[0].port)
        return value

    @field_validator("amqp_url")
    @classmethod
    def _is_a_broker(cls, value: SecretStr) -> SecretStr:
        brokers(value.get_secret_value())
        return value

    @field_validator("tls_ca_file")
    @classmethod
    def _has_certificates(cls, value: Path | None) -> Path | None:
        _ = Tls(value).context  # raises
        return value

    @field_validator("tls_key_file")
    @classmethod
    def _goes_with_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        certificate = info.data.get("tls_cert_file")
        if (certificate is None) != (value is None):
            raise ValueError("set TLS_CERT_FILE and TLS_KEY_FILE both, or none")
        if value:
            _ = Tls(None, certificate, value).context
        return value

    @field_validator("jwt_secret")
    @classmethod
    def _is_hard_to_guess(cls, value: SecretStr | None) -> SecretStr | None:
        if value and len(set(value.get_secret_value().strip())) < LEAST_DISTINCT:
            raise ValueError(f"a secret has {LEAST_DISTINCT} different characters at least: `openssl rand -hex 32`")
        return value

    @field_validator("jwt_jwks_url")
    @classmethod
    def _cannot_be_forged_on_the_way(cls, value: HttpUrl | None) -> HttpUrl | None:
        if value and value.scheme != "https" and not is_loopback(value.host):
            raise ValueError("write https://: whoever can change the answer on its way could sign any token")
        return value

    @field_validator("jwt_issuer", "jwt_audience")
    @classmethod
    def _goes_with_jwks(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value and not info.data.get("jwt_jwks_url"):
            raise ValueError("set JWT_JWKS_URL too: tokens of one machine name no issuer and no audience")
        if not (value or "").strip() and info.data.get("jwt_jwks_url"):
            raise ValueError(
                "set it together with JWT_JWKS_URL: otherwise tokens for another audience would be accepted"
            )
        return value

    @field_validator("proxies")
    @classmethod
    def _are_addresses(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            try:
                found = ip_network(value)
            except ValueError as error:
                raise ValueError(f"{value!r} is neither an address nor a network, such as 10.0.0.0/8") from error
            if not found.prefixlen:
                raise ValueError(f"{value} is every address: name those of your proxies")
        return values

    @field_validator("proxies", "retry_ladder", "handler_limit", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("retry_ladder")
    @classmethod
    def _are_durations(cls, steps: tuple[str, ...]) -> tuple[str, ...]:
        return read_ladder(steps)

    @field_validator("handler_limit")
    @classmethod
    def _are_limits(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        read_limits(entries)
        return entries

    def handler_seconds(self, lane: str, *, outside: bool) -> float:
        """Seconds that a handler of this lane may take."""
        limits = read_limits((*type(self).model_fields["handler_limit"].default, *self.handler_limit))
        return limits.get(lane, limits[OUTSIDE if outside else ""])

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        files, common_files = (EnvSettingsSource(settings_cls, env_prefix=p) for p in (None, COMMON_PREFIX))
        files.env_vars = common_files.env_vars = _secrets(files.env_prefix, env_settings, dotenv_settings)
        return (
            init_settings,
            env_settings,
            EnvSettingsSource(settings_cls, env_prefix=COMMON_PREFIX),
            files,
            common_files,
            dotenv_settings,
            DotEnvSettingsSource(settings_cls, env_prefix=COMMON_PREFIX),
            InitSettingsSource(settings_cls, {"port": default_port(cls.name)} if hasattr(cls, "name") else {}),
        )

    @property
    def database(self) -> str:
        """The database's URL, with the default filled in."""
        return self.database_url.get_secret_value() or f"sqlite:///.data/{self.name}.db"

    @cached_property
    def tls(self) -> Tls:
        """The certificates for TLS connections to broker, database, SMTP and HTTPS."""
        return Tls(self.tls_ca_file, self.tls_cert_file, self.tls_key_file)


def _secrets(prefix: str, *sources: PydanticBaseSettingsSource) -> dict[str, str | None]:
    """The settings in files, by the variable in lower case; an empty file sets nothing."""
    said = [source.env_vars for source in sources if isinstance(source, EnvSettingsSource)]
    folder = next(filter(None, (variables.get(secret_files.VARIABLE.lower()) for variables in said)), None)
    found = secret_files.read(folder, prefix, COMMON_PREFIX)
    return {variable.lower(): text for variable, text in found.items() if text}


Settings = TypeVar("Settings", bound=ServiceSettings)


def load(settings: type[Settings]) -> Settings:
    """Read the settings. For a wrong variable, print its name on stderr and exit with status 78 (EX_CONFIG)."""
    try:
        return settings()
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            field = str(problem["loc"][0]) if problem["loc"] else ""
            own = f"{settings.model_config['env_prefix']}{field}".upper()
            print(f"{own} (or {COMMON_PREFIX}{field.upper()}): {problem['msg']}", file=sys.stderr)
        raise SystemExit(78) from None
    except secret_files.Unreadable as error:
        print(error, file=sys.stderr)
        raise SystemExit(78) from None
    except UnicodeDecodeError:
        print(f"{Path('.env').resolve()} is no text in UTF-8", file=sys.stderr)
        raise SystemExit(78) from None
    except OSError as error:
        print(f"{error.filename or Path('.env').resolve()} cannot be read: {error.strerror}", file=sys.stderr)
        raise SystemExit(78) from None
