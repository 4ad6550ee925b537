"""What is found wrong, in which order, and in which words."""

import errno
import json
import os
import shutil
import sqlite3
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.local import findings, machine
from deploy.local.advice import TEXTS
from deploy.local.environment import Environment
from deploy.local.files import write_private
from deploy.local.finding import CONSEQUENCES, CRITICAL, WARNINGS, Finding
from deploy.local.management import Management
from deploy.local.readiness import Readiness
from shared.messaging import topology

WELL = Readiness(True, {}, {}, ("database", "broker", "lane x"))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Environment:
    monkeypatch.setenv("MALOTE_DATA", str(tmp_path))
    here = Environment()
    write_private(here.state_file, json.dumps({"services": [], "phase": "ready"}))
    monkeypatch.setattr(machine, "look", lambda *_: [])
    return here


def shown(queues: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """As the management API shows queues with these arguments."""
    return {name: {"name": name, "arguments": arguments} for name, arguments in queues.items()}


@pytest.fixture
def bindings(here: Environment, monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str, str]]:
    """Of a broker that has all queues and bindings; whoever takes one out of these takes it from the broker."""
    made = {*topology.bindings(here.retry_ladder), *topology.gates()}
    monkeypatch.setattr(Management, "queues", lambda _: shown(topology.queues(here.retry_ladder)))
    monkeypatch.setattr(Management, "bindings", lambda _: made)
    return made


def found(here: Environment, monkeypatch: pytest.MonkeyPatch, **looks: Any) -> dict[str, Finding]:
    """What is gathered where all is well but for `looks`: `broker`, `mail`, or what a service says of itself."""
    answers = {here.address_of(name): WELL for name in here.services}
    answers |= {here.address_of(name): look for name, look in looks.items() if isinstance(look, Readiness)}
    monkeypatch.setattr(findings, "_broker", lambda *_: looks.get("broker", Finding("broker", "answers")))
    monkeypatch.setattr(findings, "_mail_server", lambda *_: looks.get("mail", Finding("mail", "answers")))
    monkeypatch.setattr(findings, "_topology", lambda _: [looks.get("topology", Finding("topology", "complete"))])
    monkeypatch.setattr(findings, "_dead_letters", lambda _: [])
    monkeypatch.setattr(findings, "readiness", lambda url: answers[url])
    monkeypatch.setattr(findings, "_file_problem", lambda _, service: looks.get("files", {}).get(service, ""))
    return {finding.what: finding for finding in findings.gather(here)}


def test_each_advice_is_there_in_each_language_and_names_no_more_than_is_known() -> None:
    kinds = {locale: set(texts) for locale, texts in TEXTS.items()}
    assert kinds["en"] == kinds["pt-BR"]
    assert kinds["en"] >= WARNINGS | CONSEQUENCES | CRITICAL
    for texts in TEXTS.values():
        for kind, (means, following) in texts.items():
            names = {name for text in (means, following) for _, name, _, _ in string.Formatter().parse(text) if name}
            assert names <= {"what"}, kind
            assert following.endswith("."), kind
            assert not means.endswith("."), kind


def test_the_broker_is_named_first_and_who_only_waits_for_it_after(
    here: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = Readiness(False, {"broker": "no connection to publish on", "lane stock": "is not consumed"}, {})
    seen = found(here, monkeypatch, broker=Finding("broker", "no answer", "broker_down"), stock=waits)
    assert seen["stock"].kind == "service_waits"
    assert [*seen].index("broker") < [*seen].index("stock")
    assert found(here, monkeypatch, stock=waits)["stock"].kind == "service_not_ready", "nobody else is to blame"


def test_a_service_with_a_trouble_of_its_own_is_not_said_to_wait_for_the_broker(
    here: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = Readiness(False, {"broker": "no connection", "publish": "has ended"}, {})
    seen = found(here, monkeypatch, broker=Finding("broker", "no answer", "broker_down"), stock=both)
    assert seen["stock"].kind == "service_not_ready"
    assert "publish: has ended" in seen["stock"].said()


def test_each_replica_is_looked_at_after_its_services_first_process(
    here: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"name": "stock-1", "pid": 0, "port": 20_001, "restarts_lately": 0, "since": "2026-01-01T00:00:00+00:00"}
    waits = Readiness(False, {"database": "cannot be used"}, {})
    answers = {"http://127.0.0.1:20001": waits, here.address_of("stock"): waits}
    found(here, monkeypatch)
    write_private(here.state_file, json.dumps({"services": [entry], "phase": "ready"}))
    monkeypatch.setattr(findings, "readiness", lambda url: answers.get(url, WELL))
    seen = {finding.what: finding.kind for finding in findings.gather(here) if finding.kind != "database"}
    assert [*seen][-2:] == ["stock", "stock-1"]
    assert seen["stock-1"] == "service_waits"
    answers[here.address_of("stock")] = WELL
    assert {finding.what: finding.kind for finding in findings.gather(here)}["stock-1"] == "service_not_ready"


def test_a_lane_waits_for_what_the_broker_lacks_only_if_that_is_its_own(
    here: Environment, monkeypatch: pytest.MonkeyPatch, bindings: set[tuple[str, str, str]]
) -> None:
    look = findings._topology
    paused = Readiness(False, {"lane stock": "cannot settle a batch: KeyError"}, {})
    for binding, kind in (
        (topology.gates()[0], "service_not_ready"),
        (("lanes", "stock", "lane.stock"), "service_waits"),
    ):
        bindings.remove(binding)
        (lacks,) = look(here)
        seen = found(here, monkeypatch, topology=lacks, stock=paused)["stock"]
        assert seen.kind == kind, binding
        assert ("cannot settle a batch: KeyError" in seen.said()) == (kind == "service_not_ready")
        bindings.add(binding)
    gone = topology.queues(here.retry_ladder)
    del gone["lane.stock"]
    monkeypatch.setattr(Management, "queues", lambda _: shown(gone))
    (lacks,) = look(here)
    assert found(here, monkeypatch, topology=lacks, stock=paused)["stock"].kind == "service_waits"
    unsent = Readiness(False, {"broker": "a lane's queue is missing"}, {})
    assert found(here, monkeypatch, topology=lacks, stock=unsent)["stock"].kind == "service_not_ready"


def test_a_lane_does_not_wait_for_queues_of_a_version_before(
    here: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused = Readiness(False, {"lane stock": "cannot settle a batch: KeyError"}, {})
    left = Finding("topology", "stock.dlq", "old_queues")
    assert "KeyError" in found(here, monkeypatch, topology=left, stock=paused)["stock"].said()


def closed(path: Any, *_: Any, **__: Any) -> Any:
    """What the system says of what is in a folder that is closed to this user; root is refused nothing."""
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def test_a_database_in_a_folder_that_is_closed_to_this_user_is_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MALOTE_DATA", str(tmp_path))
    here = Environment()
    monkeypatch.setattr(Path, "exists", closed)
    monkeypatch.setattr("os.statvfs", closed)
    why = findings._file_problem(here, "stock")
    assert why == f"{tmp_path / 'stock.db'}: Permission denied"
    named = findings._database(here, "stock", why, WELL)
    assert named
    assert (named.kind, named.detail) == ("database_read_only", why)


def test_a_data_folder_that_cannot_be_made_is_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MALOTE_DATA", str(tmp_path / "file" / "data"))
    seen = {finding.what: finding for finding in findings.gather(Environment())}
    assert (seen["data folder"].level, seen["data folder"].kind) == ("critical", "data_folder")
    assert f"{tmp_path / 'file' / 'data'}: Not a directory" in seen["data folder"].said()
    assert "python" in seen, "what needs no file is looked at all the same"
    assert not {"fleet", "ports"} & seen.keys(), "what runs, and so which ports are ours, is not known"


def test_passwords_that_cannot_be_read_are_named_because_nobody_can_be_asked_without_them(
    here: Environment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secrets.json").mkdir()
    assert findings.gather(here) == [
        Finding("data folder", f"{tmp_path / 'secrets.json'}: Is a directory", "data_folder")
    ]


def test_a_disk_that_does_not_answer_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MALOTE_DATA", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", closed)
    seen = {finding.what: finding for finding in findings.gather(Environment())}
    assert seen["data folder"].detail == f"{tmp_path}: Permission denied"


def test_a_database_is_named_by_its_file_before_the_lanes_that_wait_for_it(
    here: Environment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    why = "OperationalError: attempt to write a readonly database"
    said = Readiness(False, {"database": why, "lane stock": why}, {})
    monkeypatch.setattr(findings, "_service", lambda name, answer, _, causes: Finding("", f"{name}{len(causes)}"))
    seen = found(here, monkeypatch, stock=said)["stock"]
    assert (seen.kind, seen.level) == ("database_read_only", "critical")
    assert str(tmp_path / "stock.db") in seen.said()
    assert found(here, monkeypatch, files={"email": "disk I/O error"})["email"].kind == "database"


def test_a_database_is_looked_at_without_being_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever closes it last removes the log of what was written, and a service's own locks do not always hold."""
    monkeypatch.setenv("MALOTE_DATA", str(tmp_path))
    here = Environment()
    assert findings._file_problem(here, "stock") == "there is no such file"
    with sqlite3.connect(tmp_path / "stock.db") as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("CREATE TABLE t (x)")
        assert findings._file_problem(here, "stock") == ""
        assert (tmp_path / "stock.db-wal").stat().st_size
    monkeypatch.setattr("os.access", lambda path, _: path != tmp_path)
    assert findings._file_problem(here, "stock") == f"{tmp_path} is read-only for this user"


@pytest.mark.parametrize(
    ("node", "kind", "says"),
    [
        ({"disk_free_alarm": True, "disk_free": 48e6, "disk_free_limit": 50e6}, "broker_disk", "48 MB free"),
        ({"mem_alarm": True, "mem_used": 900e6, "mem_limit": 800e6}, "broker_memory", "the limit is 800 MB"),
        ({"fd_total": 1024, "fd_used": 1024}, "broker_files", "1024"),
        ({"running": False}, "broker_node", "does not run"),
    ],
)
def test_an_alarm_of_the_broker_is_told_by_its_name(node: dict[str, Any], kind: str, says: str) -> None:
    alarm = findings._alarm([{"name": "rabbit@one"}, {"name": "rabbit@two", **node}])
    assert alarm
    assert alarm.kind == kind
    assert says in alarm.said()
    assert "rabbit@two" in alarm.said()
    assert findings._alarm([{"name": "rabbit@one", "disk_free_alarm": False}]) is None


def test_a_node_of_a_cluster_that_does_not_answer_is_named_and_is_no_broker_that_is_down(
    here: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMQP_URL", "amqp://admin:hunter2@one/,amqp://admin:hunter2@two/")
    silent = {"amqp://admin:hunter2@two/": "no answer"}
    monkeypatch.setattr(findings, "_amqp_silence", lambda address, _: silent.get(address, ""))
    monkeypatch.setattr(Management, "nodes", lambda _: [{"name": "rabbit@one"}, {"name": "rabbit@two"}])
    monkeypatch.setattr(Management, "is_tracing", lambda _: False)
    cluster = Environment()
    found = findings._broker(cluster, {})
    assert (found.kind, found.level, found.detail) == ("broker_node", "problem", "two: no answer")
    silent["amqp://admin:hunter2@one/"] = "refused"
    down = findings._broker(cluster, {})
    assert (down.kind, down.detail) == ("broker_down", "one: refused; two: no answer")
    silent.clear()
    assert findings._broker(cluster, {}) == Finding("broker", "answers at one, two")


def test_a_binding_that_is_missing_is_named_and_so_are_the_first_of_many(
    here: Environment, monkeypatch: pytest.MonkeyPatch, bindings: set[tuple[str, str, str]]
) -> None:
    assert findings._topology(here) == [Finding("topology", "complete")]
    gone = topology.gates()[0]
    bindings.remove(gone)
    (found,) = findings._topology(here)
    assert found.kind == "topology"
    assert found.detail == f"{gone[0]} → {gone[2]} (#)"
    monkeypatch.setattr(Management, "queues", lambda _: {})
    assert "more" in findings._topology(here)[0].detail


@pytest.mark.usefixtures("bindings")
def test_queues_of_a_version_before_are_named_and_somebody_elses_are_not(
    here: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    ladder = here.retry_ladder
    quorum = {"x-queue-type": "quorum", "x-overflow": "reject-publish"}
    dead = {"x-dead-letter-exchange": "dead-letters", "x-dead-letter-routing-key": "stock"}
    others = {"stock": quorum | dead, "stock.dlq": quorum, "email": quorum, "newsletter": quorum | dead}
    monkeypatch.setattr(Management, "queues", lambda _: shown({**topology.queues(ladder), **others}))
    (found,) = findings._topology(here)
    assert (found.level, found.detail) == ("warning", "stock.dlq, stock")
    assert "`malote topology apply` moves what is in them" in found.said()


def test_letters_that_nobody_can_read_are_told_apart_from_those_that_may_be_sent_again(
    here: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, torn = (
        {"lane": "stock", "count": 5, "reason": "OperationalError: locked"},
        {"lane": "orders", "count": 2, "reason": "not JSON: body: Invalid JSON: EOF while parsing a value"},
    )

    def waiting(*groups: dict[str, Any]) -> list[Finding]:
        body = {"data": groups, "total": sum(group["count"] for group in groups)}
        request = httpx.Request("GET", "http://deadletters/")
        monkeypatch.setattr("httpx.get", lambda *_, **__: httpx.Response(200, json=body, request=request))
        return findings._dead_letters(here)

    said = [(found.kind, found.detail.partition(",")[0]) for found in waiting(failed, torn)]
    assert said == [("dead_letters", "5 wait"), ("unreadable_letters", "2 wait")]
    (unreadable,) = waiting(torn)
    assert unreadable.level == "warning"
    assert all(f"`malote dlq {word}" in unreadable.said() for word in ("show ID`", "edit ID`", "purge --group GROUP`"))
    assert "replay" not in unreadable.said()
    assert [found.kind for found in waiting(failed)] == ["dead_letters"]
    assert waiting() == [Finding("dead letters", "none")]


@pytest.mark.parametrize(("free", "level", "says"), [(400e6, "problem", "nearly full: 400 MB free"),
                                                     (0, "critical", ": 0 MB free at ")])  # fmt: skip
def test_a_disk_is_full_or_nearly_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: float, level: str, says: str
) -> None:
    monkeypatch.setenv("MALOTE_DATA", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, int(free)))
    (disk,) = machine._data(Environment())
    assert disk.level == level
    assert says in disk.said()
    assert disk.said().startswith("full: ") is (free == 0)


def test_what_is_on_a_full_disk_is_said_to_suffer_from_it_however_well_it_looks(
    here: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "look", lambda *_: [Finding("disk", "0 MB free", "disk_full")])
    monkeypatch.setenv("ORDERS_DATABASE_URL", "postgresql://db/orders")
    full = "OperationalError: database or disk is full"
    seen = found(
        Environment(),
        monkeypatch,
        gateway=Readiness(True, {}, {"database": full}),
        stock=Readiness(False, {"publish": full}, {}),
        email=Readiness(False, {}, {}, silence="Connection refused"),
        broker=Finding("broker", "it has 0 MB free", "broker_disk"),
    )
    assert [*seen].index("disk") < [*seen].index("broker")
    for what in ("broker", "databases", "mail", "gateway", "stock", "reports"):
        assert (seen[what].kind, seen[what].is_trouble) == ("needs_disk", True), what
    assert full in seen["gateway"].said()
    assert "can be used" not in seen["databases"].said()
    assert (seen["orders"].kind, seen["email"].kind) == ("", "service_down"), "a trouble of its own, or none"


@pytest.mark.parametrize(
    ("file", "next_"),
    [("secrets.json", "Put this file back from a backup."), ("run/state.json", "`malote down`, then")],
)
@pytest.mark.parametrize("text", ["", '{"a": ', "[]", "\udcff"])
def test_a_file_of_ours_that_is_damaged_is_named_with_what_to_do(
    here: Environment, tmp_path: Path, file: str, next_: str, text: str
) -> None:
    (tmp_path / file).write_bytes(text.encode(errors="surrogateescape"))
    (seen,) = findings.gather(here)
    assert seen.is_trouble
    assert f"damaged: {tmp_path / file}: it is " in seen.said()
    assert next_ in seen.said()


def test_a_warning_is_shown_and_is_no_problem(here: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    warns = Readiness(True, {}, {"lane email.outgoing": "retried 30 times, lastly because of: timed out"})
    seen = found(here, monkeypatch, email=warns)["email"]
    assert seen.level == "warning"
    assert "retried 30 times" in seen.said()


def test_what_is_not_ours_at_a_services_port_is_said_to_be_silent(
    here: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = Readiness(False, {}, {}, silence="http://stock:8000: Connection refused")
    seen = found(here, monkeypatch, stock=silent)
    assert seen["stock"].kind == "service_down"
    assert seen["fleet"].kind == "fleet_unkept", "nobody holds the lock"


def test_in_containers_services_are_asked_where_the_setting_says_and_no_file_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MALOTE_DATA", str(tmp_path))
    monkeypatch.setenv("MALOTE_SERVICE_URL", "http://SERVICE:8000")
    here = Environment()
    assert here.address_of("orders") == here.health_of("orders") == "http://orders:8000"
    monkeypatch.setenv("MALOTE_HEALTH_PORT", "9000")
    here = Environment()
    assert here.health_of("orders") == "http://orders:9000"
    assert here.address_of("orders") == "http://orders:8000"
    assert findings._file_problem(here, "orders") == ""
