"""`.env.example` names every setting, with its default, and nothing else."""

import re
from pathlib import Path

import pytest

from shared.config.services import services, settings_of
from shared.config.settings import COMMON_PREFIX, ServiceSettings, default_port

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTED = dict(re.findall(r"^#([A-Z0-9_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
CLASSES = {service: settings_of(service) for service in services()}
VARIABLES = [
    (service, field, default_port(service) if field == "port" else info.default)
    for service, settings in CLASSES.items()
    for field, info in settings.model_fields.items()
]


@pytest.mark.parametrize(("service", "field", "default"), VARIABLES, ids=lambda value: str(value)[:20])
def test_every_setting_is_documented(service: str, field: str, default: object) -> None:
    is_common = field in ServiceSettings.model_fields and field not in ("port", "amqp_url", "database_url")
    names = [f"{COMMON_PREFIX}{field}"] if is_common else [f"{service}_{field}"]
    if field in ("amqp_url", "database_url"):
        names.append(f"orders_{field}")  # stands for all
    found = [name.upper() for name in names if name.upper() in DOCUMENTED]
    assert found, f"{names[0].upper()} is not in .env.example"
    if isinstance(default, int | float | str) and DOCUMENTED[found[0]]:
        assert type(default)(DOCUMENTED[found[0]]) == default


@pytest.mark.parametrize("service", sorted(CLASSES))
def test_settings_are_named_like_their_service(service: str) -> None:
    assert CLASSES[service].name == service
    assert CLASSES[service].model_config["env_prefix"] == f"{service.upper()}_"


@pytest.mark.parametrize("service", sorted(CLASSES))
def test_what_is_set_for_all_is_read_by_each(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{COMMON_PREFIX}RETRY_LADDER", "1s, 2m")
    assert CLASSES[service](_env_file=None).retry_ladder == ("1s", "2m")
