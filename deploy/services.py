"""What deployment has to know of each service: what its `service.toml` says, and what follows from the code."""

import textwrap
import tomllib
from itertools import groupby
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo

from contracts.base import complaint
from contracts.flow import FLOW, service_of
from shared.config.services import services, settings_of
from shared.config.settings import SERVICES, ServiceSettings

Port = Annotated[int, Field(ge=1, le=65535)]


class Wrong(Exception):
    """A service.toml cannot be used; the text has a line for each mistake: where it is, and what is wanted."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Scale(_Part):
    """How many processes there are: as many as its longest lane needs, within bounds."""

    min: int = Field(default=1, ge=1)
    max: int = Field(default=6, ge=1)
    messages: dict[str, Annotated[int, Field(ge=1)]] = {}
    """How many messages of a lane one process should have before there is another; 2,000 where a lane is not named."""
    cpu: int | None = Field(default=None, ge=1, le=100)
    """The share of its processor, in percent, above which there is another: for who answers much HTTP."""

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min is {self.min}, and max only {self.max}")
        return self


class Settings(_Part):
    """Variables that a service is given where it runs, by their names."""

    compose: dict[str, str] = {}
    dev: dict[str, str] = {}
    production: dict[str, str] = {}


class ServiceFile(_Part):
    """`service.toml`: what cannot be derived from the code."""

    port: Port
    """Where it listens on one machine: each service has its own."""
    keeps: str = "nothing but messages"
    """What is in its database, in words: for docs/running.md."""
    when_down: str = "its messages wait"
    """What does not happen while it is down, in words: for docs/running.md."""
    public: bool = False
    """Whether it is reached from outside."""
    mails: bool = False
    """Whether it sends mail: on one machine, to the mailbox there."""
    files: bool = False
    """Whether it keeps files, in a volume of its own, and works with more of them than fit into memory."""
    memory: str = Field(default="384Mi", pattern=r"^[1-9][0-9]*[MG]i$")
    """The most memory that a process may take."""
    packages: tuple[str, ...] = ()
    """Debian's packages that its image needs."""
    egress: dict[str, tuple[Port, ...]] = {}
    """What it reaches outside, in a word or two, and at which ports."""
    patch: str = ""
    """JSON patches (RFC 6902) of its Deployment, a line each, below lines of comment."""
    scale: Scale = Scale()
    settings: Settings = Settings()


class Setting:
    """A variable, as .env.example tells of it."""

    def __init__(self, variable: str, field: FieldInfo) -> None:
        self.variable, self._field = variable, field

    @property
    def about(self) -> list[str]:
        """Its description, in lines."""
        return textwrap.wrap(self._field.description or "", 118, break_on_hyphens=False)

    @property
    def default(self) -> str:
        """As one would write it; empty for none, and for what depends on others."""
        value = self._field.default
        if value is None or self.is_secret:
            return ""
        if isinstance(value, tuple):
            return ",".join(value)
        return f"{value:g}" if isinstance(value, float) else str(value).removesuffix("/")

    @property
    def is_secret(self) -> bool:
        return SecretStr in (self._field.annotation, *get_args(self._field.annotation))


class Deployed:
    """A service as the templates of deploy/templates see it: its file's fields, and what is derived."""

    def __init__(self, name: str, file: ServiceFile) -> None:
        self.name, self.NAME, self.file = name, name.upper(), file
        self.own = settings_of(name)
        lanes = dict.fromkeys(lane for route in FLOW.values() for lane in route.lanes)
        self.lanes = [lane for lane in lanes if service_of(lane) == name]
        self.callers: list[str] = []

    def __getattr__(self, field: str) -> Any:
        return getattr(self.file, field)

    @property
    def calls(self) -> list[str]:
        """The services that it has the address of."""
        named = [field.removesuffix("_url") for field in self.own.model_fields if field.endswith("_url")]
        return [name for name in named if name in services()]

    @property
    def own_settings(self) -> list[Setting]:
        """What it can be told that not every service can."""
        own = {name: field for name, field in self.own.model_fields.items() if name not in ServiceSettings.model_fields}
        return [Setting(f"{self.NAME}_{name.upper()}", field) for name, field in own.items()]

    @property
    def secrets(self) -> list[str]:
        """Those of its own variables that nobody else may know."""
        return [one.variable for one in self.own_settings if one.is_secret]


def deployed() -> list[Deployed]:
    """All services, in the order of their ports. Raises `Wrong`."""
    mistakes: list[str] = []
    found = [one for name in services() if (one := _read(name, mistakes))]
    for port, same in groupby(sorted(found, key=lambda one: one.port), key=lambda one: one.port):
        if len(twice := [one.name for one in same]) > 1:
            free = max(one.port for one in found) + 1
            mistakes.append(f"{' and '.join(twice)} have the same port, {port}, in their service.toml; {free} is free")
    if mistakes:
        raise Wrong("\n".join(mistakes))
    found.sort(key=lambda one: one.port)
    for one in found:
        one.callers = [other.name for other in found if one.name in other.calls]
    return found


def _read(name: str, mistakes: list[str]) -> Deployed | None:
    path = SERVICES / name / "service.toml"
    where = f"services/{name}/service.toml"
    try:
        one = Deployed(name, ServiceFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))))
    except FileNotFoundError:
        mistakes.append(f"{where} is missing: write it, with a port that no other service has, such as port = 8006")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        mistakes.append(f"{where}: it is no TOML: {error}")
    except ValidationError as error:
        for problem in error.errors():
            mistakes.append(f"{where}: {'.'.join(map(str, problem['loc']))}: {complaint(problem)}")
    else:
        strange = set(one.scale.messages) - set(one.lanes)
        strange_settings = [
            variable
            for told in (one.settings.compose, one.settings.dev, one.settings.production)
            for variable in told
            if variable not in {f"{one.NAME}_{field.upper()}" for field in one.own.model_fields}
        ]
        mistakes += [
            f"{where}: scale.messages: {lane!r} is none of its lanes: {', '.join(one.lanes)}" for lane in strange
        ]
        mistakes += [f"{where}: settings: {variable} is none of its settings" for variable in strange_settings]
        return one
    return None
