"""What `malote dlq` makes of its command line."""

import asyncio
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from deploy.cli import dlq, output
from deploy.cli.dlq import acting, editing, looking, selecting
from deploy.cli.errors import Failed, Refused

GROUP = "0f1e2d3c4b5a"
BODY = {"customer": {"email": "x"}, "lines": [{"sku": "A", "quantity": 1}, {"sku": "B", "quantity": 2}]}


@pytest.mark.parametrize(
    ("path", "text", "what"),
    [
        ("customer.email", "ana@example.com", {**BODY, "customer": {"email": "ana@example.com"}}),
        ("lines.1.quantity", "7", {**BODY, "lines": [BODY["lines"][0], {"sku": "B", "quantity": 7}]}),
        ("customer", '{"id": "ana"}', {**BODY, "customer": {"id": "ana"}}),
        ("note", "null", {**BODY, "note": None}),
        ("lines.0", "[]", {**BODY, "lines": [[], BODY["lines"][1]]}),
    ],
)
def test_one_value_of_a_body_is_replaced_and_the_rest_stays(path: str, text: str, what: Any) -> None:
    before = json.dumps(BODY)
    assert editing.changed(BODY, path, text) == what
    assert json.dumps(BODY) == before


@pytest.mark.parametrize("path", ["custmer.email", "lines.2.sku", "lines.x", "customer.email.domain", "lines.-1"])
def test_a_path_that_leads_nowhere_is_refused(path: str) -> None:
    with pytest.raises(typer.BadParameter):
        editing.changed(BODY, path, "1")


def test_letters_are_named_in_one_way() -> None:
    id_ = uuid4()
    assert selecting.selection([id_], {}, everything=False) == {"ids": [str(id_)]}
    assert selecting.selection(None, {"lane": "stock"}, everything=False) == {"filter": {"lane": "stock"}}
    assert selecting.selection(None, {}, everything=True) == {"all": True}
    for ids, wanted, everything in (
        (None, {}, False),
        ([id_], {"lane": "x"}, False),
        ([id_], {}, True),
        (None, {"lane": "x"}, True),
    ):
        with pytest.raises(typer.BadParameter):
            selecting.selection(ids, wanted, everything=everything)


def test_an_editor_is_given_the_body_and_leaves_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    letter = {"id": "x", "body": BODY, "encoding": "json"}
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", 'sed -i s/ana/bia/;s/\\"A\\"/\\"C\\"/')
    draft = editing._draft(letter)
    assert editing._new_body(letter, [], draft)["lines"][0]["sku"] == "C"
    draft.unlink()
    monkeypatch.setenv("EDITOR", "true")
    with pytest.raises(Failed, match="nothing was changed"):
        editing._draft(letter)
    monkeypatch.setenv("EDITOR", "no-such-editor")
    with pytest.raises(Failed, match="set EDITOR"):
        editing._draft(letter)


@pytest.mark.parametrize(("editor", "says"), [("sed -i 1d", "is not JSON"), ("sed -i s/x/y/", "the order is refused")])
def test_an_edit_that_is_refused_is_kept(
    editor: str, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", editor)
    refused = Refused("the order is refused")
    asked(monkeypatch, letter={"id": "x", "body": BODY, "encoding": "json"}, edit_letter=refused)
    with pytest.raises(Failed, match=says) as caught:
        editing.edit(uuid4())
    [kept] = tmp_path.iterdir()
    assert f"--body {kept}" in str(caught.value)


def test_without_a_terminal_nothing_can_be_edited_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    with pytest.raises(Failed, match="--set or --body"):
        editing._draft({"id": "x", "body": BODY, "encoding": "json"})


def test_a_letter_gives_no_orders_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[2Jgone\x9b"
    moment = "2026-01-01T00:00:00Z"
    known = dict.fromkeys(("lane", "message", "message_id", "job_id", "order_id", "group", "reason"), evil)
    known |= dict.fromkeys(("attempts", "service", "host"), None) | {"id": "x", "state": "WAITING", "size": 1}
    history = [{"at": moment, "what": "failed again", "reason": evil}]
    more = {"first_at": moment, "last_at": moment, "history": history, "encoding": "text", "body": evil}
    looking._describe({**known, **more, "traceback": evil})
    said = capsys.readouterr().out
    assert said.count(r"\x1b[2Jgone\x9b") == 10
    assert not {"\x1b", "\x9b"} & set(said)


def asked(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> list[tuple[str, tuple[Any, ...]]]:
    """A gateway that answers so; what it is asked."""
    seen: list[tuple[str, tuple[Any, ...]]] = []

    class Gateway:
        def __getattr__(self, name: str) -> Any:
            async def answer(*given: Any, **_: Any) -> Any:
                seen.append((name, given))
                if isinstance(answers[name], Exception):
                    raise answers[name]
                return answers[name]

            return answer

    monkeypatch.setattr("deploy.cli.client.gateway.ask", lambda question: asyncio.run(question(Gateway())))
    return seen


def test_what_is_to_be_purged_is_counted_in_all_groups_also_in_those_that_are_not_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    groups = {"data": [], "has_more": True, "total": 201_000}
    seen = asked(monkeypatch, letter_groups=groups)
    result = CliRunner().invoke(dlq.app, ["purge", "--lane", "stock"])
    assert isinstance(result.exception, Failed)
    assert "201,000 letters would be gone" in str(result.exception)
    assert seen == [("letter_groups", ({"lane": "stock"},))]


def test_a_list_of_groups_says_what_is_not_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    at = "2026-01-01T00:00:00Z"
    group = {"id": "0" * 12, "lane": "stock", "message": "m", "reason": "r", "count": 3, "first_at": at, "last_at": at}
    asked(monkeypatch, letter_groups={"data": [group], "has_more": True, "total": 1_003})
    assert "1,000 more letters" in CliRunner().invoke(dlq.app, ["list"]).output
    asked(monkeypatch, letter_groups={"data": [group] * 3, "has_more": False, "total": 9})
    assert "and 6 more letters" in CliRunner().invoke(dlq.app, ["list", "--limit", "1"]).output
    asked(monkeypatch, letter_groups={"data": [group], "has_more": False, "total": 3})
    assert "more letters" not in CliRunner().invoke(dlq.app, ["list"]).output


@pytest.mark.parametrize("listed", [[], ["--letters"]])
def test_a_list_fits_eighty_columns_and_cuts_neither_ids_nor_times(
    listed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, now = io.StringIO(), datetime.now(UTC).isoformat()
    monkeypatch.setattr(looking, "console", lambda: Console(file=out, width=80))
    monkeypatch.setattr(output, "console", looking.console)
    known = {"lane": "email.outgoing", "message": "order.confirmed.v1", "reason": "customer: Field required " * 9}
    times = {"first_at": now, "last_at": now}
    letter_id = str(uuid4())
    groups = [{"id": GROUP, "count": 123_456, **known, **times}]
    letters = [{"id": letter_id, "state": "WAITING", **known, **times}]
    asked(monkeypatch, letter_groups={"data": groups, "has_more": False, "total": 123_456},
          letters={"data": letters, "has_more": False})  # fmt: skip
    assert CliRunner().invoke(dlq.app, ["list", *listed]).exit_code == 0
    lines = out.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines), lines
    (row,) = [line.split() for line in lines[1:] if line.startswith((GROUP, letter_id))]
    assert output.at(now) in row
    assert row[-1].endswith("…"), "the reason alone is cut"


@pytest.mark.parametrize("command", ["replay", "purge"])
def test_where_nothing_matches_nothing_is_asked_or_begun(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Refused("There is no such dead letter. (404 not_found)")
    seen = asked(monkeypatch, letter_groups={"data": [], "has_more": False, "total": 0}, letter=missing)
    for given in (["--lane", "stock"], [str(uuid4()), str(uuid4())]):
        result = CliRunner().invoke(dlq.app, [command, *given])
        assert isinstance(result.exception, Failed)
        assert "nothing matches" in str(result.exception)
    assert {name for name, _ in seen} == {"letter_groups", "letter"}


def test_a_letter_that_does_not_wait_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = asked(monkeypatch, letter={"state": "DONE"})
    for given in ([str(uuid4())], ["--state", "REPLACED"]):
        result = CliRunner().invoke(dlq.app, ["replay", *given])
        assert "nothing matches" in str(result.exception)
    assert [name for name, _ in seen] == ["letter"]


@pytest.mark.parametrize(
    ("option", "said", "names"),
    [("--lane", "stok", "email.outgoing"), ("--message", "order.place", "order.placed.v1"), ("--group", "g", "list")],
)
def test_what_is_misspelt_is_a_wrong_command_line_and_not_all_clear(
    option: str, said: str, names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(monkeypatch, letter_groups={"data": [], "has_more": False, "total": 0})
    for command in (["list"], ["replay"], ["purge"], ["export", "--output", "/dev/null"]):
        result = CliRunner().invoke(
            dlq.app, [*command, option, said], env={"COLUMNS": "2000", "TERMINAL_WIDTH": "2000"}
        )
        assert result.exit_code == 2, command
        assert names in result.output


def test_a_lane_that_is_no_more_is_known_by_its_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    asked(monkeypatch, letter_groups={"data": [], "has_more": False, "total": 1})
    assert CliRunner().invoke(dlq.app, ["list", "--lane", "invoices"]).exit_code == 0


def test_a_probe_that_failed_is_named_with_what_to_do_next(monkeypatch: pytest.MonkeyPatch) -> None:
    error = {"code": "probe_failed", "detail": "letter x failed again", "letter_id": "x", "not_sent": 11}
    job = {"job_id": "j", "status": "FAILURE", "error": error}
    asked(monkeypatch, letter_groups={"total": 12}, replay=job)
    monkeypatch.setattr(acting, "follow", lambda started, *_, **__: started)
    result = CliRunner().invoke(dlq.app, ["replay", "--lane", "stock"])
    for part in ("letter x failed again", "malote dlq show x", "--group GROUP"):
        assert part in str(result.exception)
    assert "probe_failed" not in result.output, "the reason is said once"


@pytest.mark.parametrize(
    ("wish", "which"),
    [
        ({"selection": {"all": True}}, "all that wait"),
        (
            {"selection": {"filter": {"lane": "stock", "order_id": "o"}, "all": False}, "rate": 50},
            "lane stock, order o",
        ),
        ({"selection": {"ids": ["a"]}}, "letter a"),
        ({"selection": {"ids": ["a", "b"]}}, "2 letters"),
        ({"letter_id": "a", "message": "order.placed.v1"}, "letter a, message order.placed.v1"),
        ({"replay_id": "r"}, "replay r"),
    ],
)
def test_what_an_action_was_about_is_said_in_words(wish: dict[str, Any], which: str) -> None:
    assert looking._which(wish) == which


def test_all_options_of_a_filter_say_which_letters_are_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"job_id": "j", "status": "PENDING", "kind": "dead_letters.replay", "links": {}}
    seen = asked(monkeypatch, replay=job, letter_groups={"total": 1})
    id_ = str(uuid4())
    given = [
        "--lane",
        "stock",
        "--message",
        "order.placed.v1",
        "--group",
        GROUP,
        "--text",
        "t",
        "--order",
        id_,
        "--job",
        "j",
    ]
    result = CliRunner().invoke(dlq.app, ["replay", *given, "--state", "SENT", "--rate", "0.01", "--detach", "--json"])
    assert result.exit_code == 0, result.output
    wanted = {
        "lane": "stock",
        "message": "order.placed.v1",
        "group": GROUP,
        "text": "t",
        "order_id": id_,
        "job_id": "j",
        "state": "SENT",
    }
    assert seen == [("letter_groups", (wanted,)), ("replay", ({"filter": wanted, "rate": 0.01},))]
