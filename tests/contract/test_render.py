"""What `make deploy` writes is committed as it writes it, and a mistake in a service.toml is told where it is."""

from pathlib import Path

import pytest

from deploy import render, services
from deploy.services import Wrong, deployed

FILES = render.rendered()


@pytest.mark.parametrize("path", FILES)
def test_what_is_committed_is_what_is_written(path: str) -> None:
    committed = render.ROOT / path
    assert committed.exists(), "run `make deploy`"
    assert committed.read_text(encoding="utf-8") == FILES[path], (
        "run `make deploy`; what people write is in deploy/templates"
    )


def test_nothing_is_left_of_a_service_that_is_no_more() -> None:
    assert render.stale(FILES) == []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of services, of which there are orders and stock."""
    monkeypatch.setattr(services, "SERVICES", tmp_path)
    monkeypatch.setattr(services, "services", lambda: ["orders", "stock"])
    for name, port in (("orders", 8001), ("stock", 8002)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "service.toml").write_text(f"port = {port}\n")
    return tmp_path


def test_a_port_is_all_that_has_to_be_said(folder: Path) -> None:
    assert [(one.name, one.port, one.lanes) for one in deployed()] == [
        ("orders", 8001, ["orders"]), ("stock", 8002, ["stock"])
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "services/stock/service.toml is missing: write it, with a port"),
        ("", "services/stock/service.toml: port: Field required"),
        ("port = ", "services/stock/service.toml: it is no TOML: Invalid value (at end of document)"),
        ("port = 8001", "orders and stock have the same port, 8001, in their service.toml; 8002 is free"),
        ("port = 8002\npublik = true", "services/stock/service.toml: publik: Extra inputs are not permitted"),
        ("port = 8002\n[scale]\nmin = 0", "services/stock/service.toml: scale.min: Input should be greater than"),
        ("port = 8002\n[scale]\nmin = 9", "services/stock/service.toml: scale: min is 9, and max only 6"),
        (
            "port = 8002\n[scale]\nmessages = {orders = 5}",
            "services/stock/service.toml: scale.messages: 'orders' is none of its lanes: stock",
        ),
        (
            'port = 8002\n[settings.dev]\nSTOCK_COLOUR = "red"',
            "services/stock/service.toml: settings: STOCK_COLOUR is none of its settings",
        ),
    ],
)
def test_a_mistake_is_told_with_its_file_and_its_place(folder: Path, text: str | None, said: str) -> None:
    path = folder / "stock/service.toml"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(Wrong) as told:
        deployed()
    assert said in str(told.value)
