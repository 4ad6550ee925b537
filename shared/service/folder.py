"""A service is a folder: what is in services/<name>/ becomes a runnable service.

It has `handlers.py`, and where it has something of its own to say, `api.py` with a `router`, `periodic.py` with its
`@every` functions, and `settings.py` with its settings.
"""

import importlib
from importlib.util import find_spec

from shared.config.services import services, settings_of
from shared.config.settings import load
from shared.service import Service


class NoService(Exception):
    """There is no service of that name; the text says which there are."""


def service_in(name: str) -> Service:
    """The service of services/<name>/. Raises `NoService`, and SystemExit where a setting is wrong."""
    if name not in services():
        raise NoService(f"there is no services/{name}/handlers.py; there are {', '.join(services())}")
    home = f"services.{name}"
    settings = load(settings_of(name))
    router = importlib.import_module(f"{home}.api").router if find_spec(f"{home}.api") else None
    periodic = importlib.import_module(f"{home}.periodic") if find_spec(f"{home}.periodic") else None
    return Service(settings, importlib.import_module(f"{home}.handlers"), router, periodic)
