"""Which log lines belong to an order's story, wherever they come from."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deploy.cli.app import app
from deploy.cli.errors import Failed
from deploy.cli.recent import Recent
from deploy.cli.story import Story

ORDER, OTHER = "01890000-0000-7000-8000-0000a1b2c3d4", "01890000-0000-7000-8000-0000ffffffff"
SINCE = "2026-01-01T00:00:00+00:00"
PLACING, CANCELLING, SHOPS = "job-placing", "job-cancelling", "job-of-the-shops"


def line(second: int, service: str, event: str = "done", **about: Any) -> str:
    at = f"2026-01-31T09:00:{second:02}.000000Z"
    return json.dumps({"timestamp": at, "level": "info", "service": service, "event": event, **about})


GATEWAY = [
    line(1, "gateway", "http", method="POST", path="/v1/orders", status=202, ms=1,
         correlation_id=PLACING, order_id=ORDER),
    line(5, "gateway", "http", method="POST", path=f"/v1/orders/{ORDER}/cancel", status=202, ms=1,
         correlation_id=CANCELLING, order_id=ORDER),
    line(6, "gateway", "http", method="GET", path=f"/v1/orders/{OTHER}", status=200, ms=1, order_id=OTHER),
]  # fmt: skip
EMAIL = [
    line(4, "email", message="order.confirmed.v1", lane="email", correlation_id=PLACING, message_id="m-4"),
    line(7, "email", message="order.cancelled.v1", lane="email", correlation_id=CANCELLING, message_id="m-7"),
    line(8, "email", "the broker refused messages", correlation_ids=["x", PLACING]),
    line(9, "email", message="order.confirmed.v1", lane="email", correlation_id=SHOPS, message_id="m-9"),
]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """As `docker compose logs` and `kubectl logs --prefix` print them, and as they are."""
    (tmp_path / "a.log").write_text("".join(f"gateway-1  | {entry}\n" for entry in GATEWAY) + "gateway-1  | not JSON\n")
    (tmp_path / "b.log").write_text(
        "".join(f"[pod/email-7f/email] {entry}\n" for entry in EMAIL[:2]) + "\n".join(EMAIL[2:])
    )
    return [str(tmp_path / "a.log"), str(tmp_path / "b.log")]


def told(about: str, files: list[str]) -> list[str]:
    return [entry["timestamp"][17:19] for entry in Story(about, [Path(name).open("rb") for name in files]).read()]


@pytest.mark.parametrize("about", [ORDER, PLACING, CANCELLING, "m-4", "m-7", "A1B2C3D4", "a1b2c3d4"])
def test_any_id_of_an_order_leads_to_all_of_its_story(about: str, files: list[str]) -> None:
    assert told(about, files) == ["01", "04", "05", "07", "08"]


def test_another_order_is_another_story(files: list[str]) -> None:
    assert told(OTHER, files) == ["06"]
    assert told(SHOPS, files) == ["09"]


@pytest.mark.parametrize("about", ["job", "done", "orders", "email", "nobody", "00000000"])
def test_what_is_no_whole_id_leads_nowhere(about: str, files: list[str]) -> None:
    with pytest.raises(Failed, match=r"no line about .*a\.log"):
        told(about, files)


def test_many_files_of_one_folder_are_named_by_it(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.log" for number in range(4)]
    for file in files:
        file.write_text(line(1, "orders"))
    with pytest.raises(Failed) as caught:
        told("nobody", [str(file) for file in files])
    assert str(caught.value).startswith(f"no line about nobody in {tmp_path}/*.log; ")


def test_lines_that_are_no_json_are_named_as_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text(f"2026-01-31 09:00:00 [info] done correlation_id={PLACING}\n")
    with pytest.raises(Failed, match="MALOTE_LOG_FORMAT=json"):
        told(PLACING, [str(tmp_path / "a.log")])


def test_what_is_written_later_is_followed_with_the_jobs_that_it_leads_to(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text(GATEWAY[0] + "\n")
    story = Story(PLACING, [path.open("rb")])
    assert len(story.read()) == 1
    with path.open("a") as log:
        log.write(f"{GATEWAY[1]}\n{EMAIL[3]}\n{EMAIL[1][:40]}")
        log.flush()
        assert [entry["correlation_id"] for entry in story.news()] == [CANCELLING]
        log.write(f"{EMAIL[1][40:]}\n")
        log.flush()
        assert [entry["message_id"] for entry in story.news()] == ["m-7"]
    assert story.news() == []


def test_a_line_is_read_once_it_is_whole_wherever_its_writer_paused(tmp_path: Path) -> None:
    whole = line(4, "email", lane="email", correlation_id=PLACING, message_id="m-4", about={"b": {"c": "}"}}) + "\n"
    for cut in range(1, len(whole)):
        path = tmp_path / f"{cut}.log"
        path.write_text(GATEWAY[0] + "\n" + whole[:cut])
        with path.open("rb") as read, path.open("a") as written:
            story = Story(PLACING, [read])
            found = story.read()
            written.write(whole[cut:])
            written.flush()
            found += story.news()
        assert [entry["service"] for entry in found] == ["gateway", "email"], whole[:cut]


def run(*arguments: str, stdin: str = "") -> Any:
    return CliRunner().invoke(app, ["logs", *arguments], input=stdin)


def test_lines_come_from_stdin_too_and_go_out_as_they_were(files: list[str]) -> None:
    both = "".join(Path(name).read_text() for name in files)
    done = run(ORDER, "--from", "-", "--json", "--service", "email", "--since", "2026-01-31T09:00:05Z", stdin=both)
    assert [json.loads(said) for said in done.stdout.splitlines()] == [json.loads(EMAIL[1]), json.loads(EMAIL[2])]


def test_people_read_the_time_the_service_and_what_happened(files: list[str]) -> None:
    said = run(ORDER, *(word for name in files for word in ("--from", name))).stdout.splitlines()
    assert "gateway     POST /v1/orders 202 in 1 ms" in said[0]
    assert "email       done order.confirmed.v1" in said[1]
    assert len(said) == 5


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([ORDER, "--from", "/nowhere.log"], 1, "cannot read /nowhere.log: No such file or directory"),
        ([ORDER, "--since", "yesterday", "--from", "-"], 2, "'yesterday' is neither a time"),
        ([ORDER, "--follow", "--from", "-"], 2, "stdin has an end"),
        ([" ", "--from", "-"], 2, "give an id, such as"),
        ([ORDER, "--service", "nope", "--from", "-"], 2, "there is no service nope: "),
    ],
)
def test_a_wrong_wish_is_refused_with_what_is_wrong(arguments: list[str], status: int, said: str) -> None:
    done = run(*arguments)
    words = " ".join((done.output + str(done.exception or "")).replace("│", " ").split())
    assert said in words
    assert done.exit_code == status


def test_what_a_terminal_would_obey_is_spelt_out(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text(line(1, "orders", "dead_lettered", message_id="m", error="no\x1b[2J\x9b1m\x7f"))
    said = run("m", "--from", str(tmp_path / "a.log")).stdout
    assert r"error=no\x1b[2J\x9b1m\x7f" in said
    assert not set("\x1b\x9b\x7f") & set(said)
    machine = run("m", "--from", str(tmp_path / "a.log"), "--json").stdout
    assert not set("\x1b\x9b\x7f") & set(machine)
    assert json.loads(machine)["error"] == "no\x1b[2J\x9b1m\x7f"


def test_lines_of_another_shape_keep_nobody_from_the_story(tmp_path: Path) -> None:
    odd = [
        line(1, "gateway", correlation_id=None, order_id=ORDER),
        line(2, "gateway", correlation_id={"a": 1}, order_id=ORDER),
        line(3, "gateway", correlation_ids=7, order_id=ORDER),
        f'{{"event": "deep", "order_id": "{ORDER}", "nested": {"[" * 100_000}',
        line(4, "gateway", order_id=ORDER),
    ]
    (tmp_path / "a.log").write_text("\n".join(odd) + "\n")
    assert told(ORDER, [str(tmp_path / "a.log")]) == ["01", "02", "03", "04"]


def test_a_pipe_is_read_like_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writing = threading.Thread(target=lambda: (tmp_path / "pipe").write_text("\n".join(GATEWAY) + "\n"))
    writing.start()
    result = CliRunner().invoke(app, ["logs", ORDER, "--from", str(tmp_path / "pipe"), "--json"])
    writing.join()
    assert result.output.count('"timestamp"') == 2, result.output


def test_where_no_line_fits_that_is_said_beside_the_lines(files: list[str]) -> None:
    for given in ([ORDER, "--service", "reports"], ["--since", "2026-02-01T00:00:00+00:00"]):
        done = run(*given, "--json", *(part for name in files for part in ("--from", name)))
        assert (done.exit_code, done.stdout) == (0, ""), given
        assert done.stderr.startswith("no line in ")
        assert done.stderr.count("\n") == 1
    assert run(ORDER, "--from", files[0]).stderr == ""


@pytest.mark.parametrize("since", ["99999999999h", "0001-01-01T00:00:00+14:00"])
def test_a_time_that_no_calendar_has_is_refused(files: list[str], since: str) -> None:
    result = CliRunner().invoke(app, ["logs", ORDER, "--from", files[0], "--since", since])
    assert result.exit_code == 2, result.output


def test_without_an_id_all_services_lately_are_told_in_order_of_time(tmp_path: Path) -> None:
    (tmp_path / "stock.log").write_text(
        line(1, "stock", "too early") + "\n" + line(5, "stock", "consuming") + "\nTraceback: boom\n"
    )
    (tmp_path / "supervisor.log").write_text(
        "2026-01-31T09:00:02+00:00 broker ready (7 s)\n2026-01-31T09:00:06+00:00 stock ended (SIGKILL) after 2 s\n"
    )
    (tmp_path / "email.log").write_text(line(3, "email", "retried").replace('"info"', '"warning"') + "\n")
    names = [word for name in sorted(tmp_path.iterdir()) for word in ("--from", str(name))]
    done = run("--since", "2026-01-31T09:00:02Z", "--json", *names)
    said = [json.loads(entry) for entry in done.stdout.splitlines()]
    assert [(entry["service"], entry["event"]) for entry in said] == [
        ("supervisor", "broker ready (7 s)"),
        ("email", "retried"),
        ("stock", "consuming"),
        ("stock", "Traceback: boom"),
        ("supervisor", "stock ended (SIGKILL) after 2 s"),
    ]
    worse = run("--since", "2026-01-31T09:00:02Z", "--level", "warning", *names).stdout
    assert all(word in worse for word in ("retried", "boom", "SIGKILL"))
    assert "consuming" not in worse
    only = run("--since", "2026-01-31T09:00:02Z", "--service", "supervisor", *names).stdout.splitlines()
    assert len(only) == 2


def test_a_replicas_log_is_its_services_and_can_be_read_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALOTE_DATA", str(tmp_path))
    (tmp_path / "logs").mkdir()
    for name in ("stock", "stock-1", "orders"):
        (tmp_path / "logs" / f"{name}.log").write_text(line(1, name.partition("-")[0], name) + f"\n{name} fails\n")

    def told_by(*names: str) -> list[str]:
        wanted = [word for name in names for word in ("--service", name)]
        return [json.loads(entry)["event"] for entry in run("--since", SINCE, "--json", *wanted).stdout.splitlines()]

    both = ["stock", "stock fails", "stock-1", "stock-1 fails"]
    assert sorted(told_by("stock")) == both
    assert told_by("stock-1") == both[2:]
    assert sorted(told_by("stock-1", "orders")) == ["orders", "orders fails", *both[2:]]
    assert "all: stock fits" in " ".join(CliRunner().invoke(app, ["logs", "x", "--service", "stock-1"]).output.split())


def test_a_level_narrows_an_orders_story_too(files: list[str]) -> None:
    assert run(ORDER, "--level", "warning", *(word for name in files for word in ("--from", name))).stdout == ""


def test_what_comes_is_followed_without_an_id(tmp_path: Path) -> None:
    path = tmp_path / "stock.log"
    path.write_text(line(1, "stock") + "\n")
    recent = Recent([path.open("rb")], "2026-01-31T09:00:00Z")
    assert len([*recent.read()]) == 1
    with path.open("a") as log:
        log.write(line(2, "stock", "later") + "\n" + line(3, "stock")[:20])
    assert [entry["event"] for entry in recent.news()] == ["later"]


def test_of_lines_that_a_full_disk_has_torn_and_joined_what_is_readable_is_told_and_the_rest_is_marked(
    tmp_path: Path,
) -> None:
    whole, cut = line(2, "stock", "retried", message_id="m-2"), line(1, "stock", "done", message_id="m-1", lane="stock")
    path = tmp_path / "stock.log"
    several = f'{cut[:-7]}{whole}\n{cut[:30]}{cut[:70]}{whole}\nock", "lane": "stock"}}{whole}\n'
    path.write_text(several)
    done = run("--since", "2026-01-31T09:00:01Z", "--json", "--from", str(path))
    said = [json.loads(entry) for entry in done.stdout.splitlines()]
    told = [(entry["event"], entry.get("message_id"), "torn" in entry) for entry in said]
    assert told.count(("retried", "m-2", False)) == 3
    assert told.count(("done", "m-1", True)) == 1
    assert len(told) == 7
    (first,) = [entry for entry in said if entry.get("message_id") == "m-1"]
    assert (first["torn"], "lane" in first) == ('"lane": "', False)
    path.write_text(
        '{"timestamp": "2026-01-31T09:00:03Z", "event": "a\\u00e9", "s": 1.5, "about": {"event": "no"}, "ids": ["1"\n'
    )
    (torn,) = run("--json", "--from", str(path)).stdout.splitlines()
    read = {"timestamp": "2026-01-31T09:00:03Z", "event": "a\u00e9", "s": 1.5, "about": {"event": "no"}}
    assert {**read, "torn": '"ids": ["1"'}.items() <= json.loads(torn).items()
    path.write_text(several)
    people = run("--since", "2026-01-31T09:00:02Z", "--from", str(path)).stdout.splitlines()
    assert sum("retried" in entry for entry in people) == 3, "a later line joined to one before --since is told, too"
    story = run("m-1", "--from", str(path)).stdout.splitlines()
    assert len(story) == 1
    assert 'torn="lane": "' in story[0]
    assert len(run("m-2", "--from", str(path)).stdout.splitlines()) == 3
