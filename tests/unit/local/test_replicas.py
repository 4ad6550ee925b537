"""How many processes of a service are wanted, and what they are called."""

from pathlib import Path

import pytest

from deploy.local import replicas
from deploy.local.environment import Damaged, Environment

SERVICES = ("orders", "stock")


def test_the_first_process_keeps_the_services_name_and_the_others_are_numbered() -> None:
    assert replicas.names(SERVICES, {"stock": 3}) == ["orders", "stock", "stock-1", "stock-2"]
    assert [replicas.split(name) for name in ("stock", "stock-12")] == [("stock", 0), ("stock", 12)]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("nope=2", "there is no service 'nope': orders, stock are there"),
        ("stock=0", "a number from 1 to 32, such as stock=2"),
        ("stock=33", "a number from 1 to 32"),
        ("stock=-1", "a number from 1 to 32"),
        ("stock=²", "a number from 1 to 32"),
        ("stock", "write SERVICE=NUMBER"),
        ("stock=2 stock=3", "stock is given twice"),
    ],
)
def test_what_is_no_number_of_a_services_processes_is_refused_with_the_reason(given: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        replicas.read(given.split(), SERVICES)
    assert replicas.read(["stock=32", "orders=1"], SERVICES) == {"stock": 32, "orders": 1}


def test_what_is_asked_for_is_kept_until_the_next_fleet_begins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MALOTE_DATA", str(tmp_path))
    here = Environment()
    assert replicas.wanted(here) == {}
    replicas.begin(here, {"stock": 2})
    replicas.change(here, {"orders": 3})
    assert replicas.wanted(here) == {"stock": 2, "orders": 3}
    replicas.begin(here, {})
    assert replicas.wanted(here) == {}


@pytest.mark.parametrize("text", ["", "[]", "3", '{"stock": "many"}', '{"stock": 0}', '{"stock": true}'])
def test_a_file_that_says_no_numbers_is_named_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    monkeypatch.setenv("MALOTE_DATA", str(tmp_path))
    here = Environment()
    replicas.begin(here, {})
    here.replicas_file.write_text(text)
    with pytest.raises(Damaged, match=rf"{here.replicas_file}: it is .*`malote down`, then `malote up`"):
        replicas.change(here, {"stock": 2})
