"""The services that there are: the folders of services/, each with what it can be told."""

import importlib
from functools import cache
from importlib.util import find_spec

from shared.config.settings import SERVICES, ServiceSettings


def services() -> list[str]:
    """Every folder that can be started; nobody keeps a list."""
    return sorted(path.parent.name for path in SERVICES.glob("*/handlers.py"))


@cache
def settings_of(service: str) -> type[ServiceSettings]:
    """The class in its `settings.py`; the settings that every service has where there is none."""
    if not find_spec(f"services.{service}.settings"):
        return type(
            f"{service.capitalize()}Settings",
            (ServiceSettings,),
            {"name": service, "model_config": {"env_prefix": f"{service.upper()}_"}, "__module__": __name__},
        )
    module = importlib.import_module(f"services.{service}.settings")
    found = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, ServiceSettings)]
    return next(value for value in found if value is not ServiceSettings)
