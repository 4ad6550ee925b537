"""The existing services, which are the folders of services/, and their settings."""

import importlib
from functools import cache
from importlib.util import find_spec

from shared.config.settings import SERVICES, ServiceSettings


def services() -> list[str]:
    """The names of all services: each folder with a `handlers.py`."""
    return sorted(path.parent.name for path in SERVICES.glob("*/handlers.py"))


@cache
def settings_of(service: str) -> type[ServiceSettings]:
    """The class in the service's `settings.py`; without that file, a class with the settings that every service has."""
    if not find_spec(f"services.{service}.settings"):
        return type(
            f"{service.capitalize()}Settings",
            (ServiceSettings,),
            {"name": service, "model_config": {"env_prefix": f"{service.upper()}_"}, "__module__": __name__},
        )
    module = importlib.import_module(f"services.{service}.settings")
    found = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, ServiceSettings)]
    return next(value for value in found if value is not ServiceSettings)
